"""Histograms of what flows took, a backend and kind: counted live, never framed.

Lives here: the bounds, the one writer's side, the sum over workers. Never here: who may be read
(`shm.reader` judges identities and epochs), text formats.

The bounds are those of Prometheus' native histograms at schema 2: powers of 2**(1/4) seconds, so
four buckets an octave, and no bound that an operator would have to choose. A bucket is one word
that only grows, and `le` holds exactly: a value that equals a bound is within it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.region import Region

SCHEMA: Final = 2
FIRST_EXPONENT: Final = -16  # 15 us
LAST_EXPONENT: Final = 6  # 64 s
OCTAVE: Final = 1 << SCHEMA
"""Buckets a factor of 2."""
BOUNDS_S: Final = tuple(
    2.0 ** (step / OCTAVE) for step in range(FIRST_EXPONENT * OCTAVE, LAST_EXPONENT * OCTAVE + 1)
)
"""Inclusive upper bounds, ascending; one more bucket holds what is above the last."""
_KINDS: Final = len(lo.HISTOGRAMS)
_BUCKETS: Final = lo.HISTOGRAM_BUCKETS
_BOUNDS_NS: Final = tuple(int(bound_s * 1e9) for bound_s in BOUNDS_S)


def histograms_view(region: Region, worker: int | None) -> NDArray[np.uint64]:
    """(slots, kinds, buckets) live counts of a worker; None: of the dead ones."""
    layout = region.layout
    start = layout.retired_histograms if worker is None else layout.histograms(worker)
    words = region.u64[start : start + layout.histogram_words]
    return words.reshape(layout.slots, len(lo.HISTOGRAMS), lo.HISTOGRAM_BUCKETS)


class HistogramWriter:
    """One worker's. `observe(slot, kind, value_ns)`, kind by its place in `layout.HISTOGRAMS`."""

    def __init__(self, region: Region, worker: int) -> None:
        start = region.layout.histograms(worker)
        self._words = region.words[start : start + region.layout.histogram_words]

    def observe(self, slot: int, kind: int, value_ns: int) -> None:
        at = (slot * _KINDS + kind) * _BUCKETS + bisect_left(_BOUNDS_NS, value_ns)
        self._words[at] += 1
