"""Debian's packages that a testbed is made of, as `packages.txt` lists them.

Lives here: reading that list. Never here: installing it (`deps.sh`).
"""

from __future__ import annotations

from pathlib import Path

_CHECKERS = {"libvirt-clients", "libxml2-utils"}
"""Of use to those who make testbeds, and to no machine of one."""


def names() -> list[str]:
    """What machines need."""
    listed = (Path(__file__).parent / "packages.txt").read_text().split()
    return [name for name in listed if name not in _CHECKERS]
