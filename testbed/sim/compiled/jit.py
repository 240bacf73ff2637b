"""How the simulator's loops are compiled: once a machine, cached beside the source.

`inner` is compiled into what calls it, `outer` stands alone. Neither counts references, which cost
more than half of the time; therefore nothing that is compiled here may allocate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from numba import njit

import lbd.dispatch

_HERE = Path(__file__).parent
_SOURCES = (_HERE, _HERE.parent / "records.py", Path(lbd.dispatch.__file__).parent)


def source_stamp() -> str:
    """A digest of everything that compiled code takes constants or callees from."""
    files = [f for s in _SOURCES for f in (sorted(s.glob("*.py")) if s.is_dir() else [s])]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


_STAMP: Final = source_stamp()


def _compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    compiler = njit(cache=True, error_model="numpy", _nrt=False, **options)

    def decorate(function: Callable[..., Any]) -> Any:
        compiled = compiler(function)
        # numba looks at the function's own file only, and would keep code compiled from callees in
        # other files as they were.
        compiled._cache._cache_file._source_stamp = _STAMP
        return compiled

    return decorate


outer = _compiled()
inner = _compiled(forceinline=True)
