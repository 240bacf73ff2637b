"""How the simulator's loops are compiled: once a machine, cached beside the source.

`inner` is compiled into what calls it, `outer` stands alone. Neither counts references, which cost
more than half of the time; therefore nothing that is compiled here may allocate.

The cache belongs to the text of this folder and of the records: numba itself looks only at the file
that a function stands in, and would keep what it has inlined from another file that has changed.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import numba
from numba import njit

_HERE = Path(__file__).parent


def _digest() -> str:
    sources = sorted([*_HERE.glob("*.py"), _HERE.parent / "records.py"])
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


if "NUMBA_CACHE_DIR" not in os.environ:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    numba.config.CACHE_DIR = str(home / "lbd" / "simulator" / _digest())

outer = njit(cache=True, error_model="numpy", _nrt=False)
inner = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
