"""How the simulator's loops are compiled: once a machine, cached by what they are made of.

`inner` is compiled into what calls it, `outer` stands alone. Neither counts references, which cost
more than half of the time; therefore nothing that is compiled here may allocate.

The cache belongs to the text of this folder, of the records, and of the live rules, whose constants
are compiled in: numba itself looks only at the file that a function stands in, and would keep what
it has taken from another file that has changed.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numba
from numba import njit

import lbd.dispatch

_HERE = Path(__file__).parent
_FOLDERS = (_HERE, Path(lbd.dispatch.__file__).parent)


def digest() -> str:
    """Another one for every change of a source that compiled code depends on."""
    sources = [source for folder in _FOLDERS for source in sorted(folder.glob("*.py"))]
    sources.append(_HERE.parent / "records.py")
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


if "NUMBA_CACHE_DIR" not in os.environ:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    numba.config.CACHE_DIR = str(home / "lbd" / "simulator" / digest())

outer = njit(cache=True, error_model="numpy", _nrt=False)
inner = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
