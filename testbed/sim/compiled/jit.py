"""How the simulator's loops are compiled: once a machine, cached beside the source.

`inner` is compiled into what calls it, `outer` stands alone. Neither counts references, which cost
more than half of the time; therefore nothing that is compiled here may allocate.
"""

from __future__ import annotations

from numba import njit

outer = njit(cache=True, error_model="numpy", _nrt=False)
inner = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
