"""Looks on: samples a service's region a few times a second, for a screen and for plots.

Lives here: the reading. Never here: display, load. It writes nothing into the region.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from shm.reader import Reader
from shm.region import Region
from shm.weights import newest_weights

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """One look at N backends, in slot order, since the watch was made.

    flows (N,): q now. share (N,): of the flows dispatched. latency_s (N,): mean time to first byte
    of the flows answered, NaN where there were none. weight (N,): in force, mean 1.
    """

    at_ns: int
    flows: NDArray[np.int64]
    share: Float64
    latency_s: Float64
    weight: Float64


class Watch:
    """`agent`: show the weights of its newest frame, else the configured ones."""

    def __init__(self, region: Region, agent: bool) -> None:
        self._region = region
        self._agent = agent
        self._reader = Reader(region)
        self._first = self._totals()

    def _totals(self) -> Float64:
        """(3, N): flows, answered, summed durations in seconds."""
        totals = self._reader.snapshot(monotonic_ns()).totals
        return np.array(
            [
                totals["flows_total"],
                totals["first_byte_total"],
                totals["duration_ns_total"] * 1e-9,
            ],
            dtype=np.float64,
        )

    def look(self) -> View:
        seen = self._reader.snapshot(monotonic_ns())
        flows, answered, duration_s = self._totals() - self._first
        with np.errstate(invalid="ignore"):
            latency_s = duration_s / np.where(answered > 0, answered, np.nan)
        weight = np.array([self._region.entry(int(slot)).weight for slot in seen.slots])
        given = newest_weights(self._region) if self._agent else None
        if given is not None:
            weight = given.weight[seen.slots]
        return View(
            at_ns=seen.now_ns,
            flows=seen.flows,
            share=flows / max(flows.sum(), 1.0),
            latency_s=latency_s,
            weight=weight / weight.mean(),
        )
