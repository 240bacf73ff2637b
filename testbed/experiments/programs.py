"""Which versions of programs and of this project a run is made with.

Lives here: asking them. Never here: what depends on the answer (`store`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np

import testbed
from testbed.lab import apache

_PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
_ASK = {
    "apache2": "-v",
    "php": "-v",
    "mariadbd": "--version",
    "memcached": "-V",
    "haproxy": "-v",
    "nginx": "-v",
}
_ROOT = Path(testbed.__file__).parent.parent
_WAIT_S = 10.0


@cache
def versions() -> dict[str, str]:
    """By name; those that are not there are left out."""
    found = {"numpy": np.__version__}
    for name, flag in _ASK.items():
        program = shutil.which(name, path=_PATH)
        if program is not None and (said := _said([program, flag])):
            found[name] = said.splitlines()[0]
    with contextlib.suppress(OSError):
        text = (apache.MEDIAWIKI / "includes" / "Defines.php").read_text()
        if version := re.search(r"MW_VERSION', '([^']+)'", text):
            found["mediawiki"] = version[1]
    return found


@cache
def commit() -> str:
    """Of the checkout that this runs from, with `+` where files differ from it; empty for none."""
    git = ["git", "-C", str(_ROOT)]
    head = _said([*git, "rev-parse", "HEAD"])
    if not re.fullmatch(r"[0-9a-f]{40,64}", head):
        return ""
    return head + ("+" if _said([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def _said(argv: list[str]) -> str:
    """Output and errors: nginx tells its version there."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_WAIT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()
