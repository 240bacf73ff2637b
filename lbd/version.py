"""Which program this is. Lives here: its version. Never here: anything else."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as of


@cache
def version() -> str:
    """As it was installed; "unknown" where it runs from its sources.

    Looked at once: what is installed later is another program.
    """
    try:
        return of("lbd")
    except PackageNotFoundError:
        return "unknown"
