"""Which program this is. Lives here: its version. Never here: anything else."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as of


def version() -> str:
    """As it was installed; "unknown" where it runs from its sources."""
    try:
        return of("lbd")
    except PackageNotFoundError:
        return "unknown"
