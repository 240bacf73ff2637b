"""A worker's own block: what it counts, samples and publishes.

Lives here: every word that a worker writes. Never here: what a flow means by it (`lbd.flow`).
Writer: the one worker; before its first and after its last breath the supervisor (`retire`).
Readers: other workers (`flows` only, live), agent and metrics (frames and reservoirs).
"""

from __future__ import annotations

import os
import time

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.frames import FrameRing
from shm.histogram import histograms_view
from shm.region import Region
from shm.reservoir import ReservoirWriter


def cache_view(region: Region, worker: int) -> NDArray[np.uint64]:
    """(rows, slots) of a worker's live counters."""
    start = region.layout.cache(worker)
    words = region.layout.cache_words
    return region.u64[start : start + words].reshape(len(lo.ROWS), region.layout.slots)


def scalars_view(region: Region, worker: int) -> NDArray[np.uint64]:
    """(scalars,) of a worker."""
    start = region.layout.worker(worker)
    return region.u64[start : start + len(lo.SCALARS)]


def flows_view(region: Region) -> NDArray[np.float64]:
    """(workers, slots) flows in progress: q of every worker, live."""
    first = region.layout.cache(0) + lo.ROW["flows"] * region.layout.slots
    last = first + (region.layout.workers - 1) * region.layout.worker_words + region.layout.slots
    step = region.layout.worker_words * lo.WORD
    return np.lib.stride_tricks.as_strided(
        region.f64[first:last],
        shape=(region.layout.workers, region.layout.slots),
        strides=(step, lo.WORD),
    )


class WorkerBlock:
    """The writer of block `index`. Rows are memoryviews: `block.flows[slot] += 1.0`.

    Taking the block starts it at zero; the supervisor has moved a predecessor's totals away.
    """

    def __init__(self, region: Region, index: int, probability: float | None = None) -> None:
        layout = region.layout
        self.region = region
        self.index = index
        first = layout.worker(index)
        _empty(region, index)
        self.scalars = region.words[first : first + len(lo.SCALARS)]

        start = layout.cache(index)
        self._cache = region.u64[start : start + layout.cache_words]

        self.rows: dict[str, memoryview[int]] = {}
        for name, index_of_row in lo.ROW.items():
            at = start + index_of_row * layout.slots
            self.rows[name] = region.words[at : at + layout.slots]
        self.floats: dict[str, memoryview[float]] = {}
        for name in lo.FLOATS:
            at = start + lo.ROW[name] * layout.slots
            self.floats[name] = region.doubles[at : at + layout.slots]
        self.flows = self.floats["flows"]
        self._ring = FrameRing(region.u64, layout.frame(index, 0), layout.frame_words, layout.depth)
        self._body = np.zeros(layout.frame_words - 1, dtype=np.uint64)
        self._reservoir = ReservoirWriter(region.words, layout.reservoir, probability)
        base = layout.reservoirs(index)
        stride = layout.reservoir * lo.SAMPLE_WORDS
        self._bases: dict[str, list[int]] = {}
        for kind in layout.kinds:
            self._bases[kind] = [base + slot * stride for slot in range(layout.slots)]
            base += layout.slots * stride
        self._interarrival_base = base
        self._duration_base, self._fct_base = (self._bases[kind] for kind in lo.KINDS)
        self._histograms = histograms_view(region, index)
        self._arrival_words = [
            layout.worker(w) + lo.SCALAR["last_arrival_ns"] for w in range(layout.workers)
        ]
        self.scalars[lo.SCALAR["pid"]] = os.getpid()
        self.scalars[lo.SCALAR["incarnation_ns"]] = time.monotonic_ns()

    def count(self, scalar: str, by: int = 1) -> None:
        self.scalars[lo.SCALAR[scalar]] += by

    def adopt(self, slot: int, identity: int) -> None:
        """Count for a (new) backend in `slot`, from zero and without its predecessor's samples."""
        # The identity goes first and comes last: readers leave out a slot that is changing hands.
        for row in self.rows.values():
            row[slot] = 0  # also 0.0
        stride = self.region.layout.reservoir * lo.SAMPLE_WORDS
        for bases in self._bases.values():
            base = bases[slot]
            self.region.u64[base : base + stride : lo.SAMPLE_WORDS] = 0
        self._histograms[slot] = 0
        self.rows["identity"][slot] = identity

    def sample_duration(self, slot: int, now_ns: int, value_ns: int) -> None:
        self._reservoir.sample(self._duration_base[slot], now_ns, value_ns)

    def sample_fct(self, slot: int, now_ns: int, value_ns: int) -> None:
        self._reservoir.sample(self._fct_base[slot], now_ns, value_ns)

    def sample_exchange(self, slot: int, now_ns: int, value_ns: int) -> None:
        """KeyError in a region that has no such samples."""
        self._reservoir.sample(self._bases["exchange"][slot], now_ns, value_ns)

    def sample_arrival(self, now_ns: int) -> None:
        """The time since the last flow that any worker accepted: the service's inter-arrival."""
        words = self.region.words
        last_ns = max([words[at] for at in self._arrival_words])
        if 0 < last_ns <= now_ns:
            self._reservoir.sample(self._interarrival_base, now_ns, now_ns - last_ns)
        words[self._arrival_words[self.index]] = now_ns

    def publish(self, now_ns: int) -> None:
        """Copy the counter cache into the next frame and beat."""
        self._body[0] = now_ns
        self._body[1:] = self._cache
        self._ring.write(self._body)
        self.scalars[lo.SCALAR["heartbeat_ns"]] = now_ns


def retire(region: Region, worker: int) -> None:
    """The supervisor's: keep a dead worker's totals, take its gauges out of the sums.

    Readers see the epoch odd meanwhile and look again.
    """
    words = region.words
    layout = region.layout
    cache = cache_view(region, worker)
    kept = region.u64[layout.retired + lo.SCALAR_WORDS :][: layout.cache_words]
    kept = kept.reshape(len(lo.ROWS), layout.slots)
    kept_histograms = histograms_view(region, None)
    kept_scalars = region.u64[layout.retired : layout.retired + len(lo.SCALARS)]
    words[lo.H_EPOCH] += 1
    identities = region.identities()
    same = cache[lo.ROW["identity"]] == identities
    # A slot that is a new identity starts from zero in the retired counts too.
    gone = kept[lo.ROW["identity"]] != identities
    kept[:, gone] = 0
    kept_histograms[gone] = 0
    kept[lo.ROW["identity"]] = identities
    totals = slice(len(lo.GAUGES), len(lo.ROWS))
    kept[totals, same] += cache[totals, same]
    kept_histograms[same] += histograms_view(region, worker)[same]
    open_flows = cache[lo.ROW["flows"]].view("<f8").astype(np.uint64)
    kept[lo.ROW["lost_total"], same] += open_flows[same]
    scalars = scalars_view(region, worker)
    for name in lo.SCALARS:
        if name.endswith("_total"):
            kept_scalars[lo.SCALAR[name]] += scalars[lo.SCALAR[name]]
    kept_scalars[lo.SCALAR["queue_lost_total"]] += scalars[lo.SCALAR["queued"]]
    _empty(region, worker)
    words[lo.H_EPOCH] += 1


def _empty(region: Region, worker: int) -> None:
    """Nothing counted, nothing sampled; readers may be at work.

    The frames are not wiped but followed by one that counts nothing: a sequence that was used twice
    could pass a torn copy for whole. Of samples only the times go, which alone make them samples.
    """
    layout = region.layout
    cache_view(region, worker)[:] = 0
    histograms_view(region, worker)[:] = 0
    scalars_view(region, worker)[:] = 0
    ring = FrameRing(region.u64, layout.frame(worker, 0), layout.frame_words, layout.depth)
    if ring.newest():
        ring.write(np.zeros(layout.frame_words - 1, dtype=np.uint64))
    first, last = layout.reservoirs(worker), layout.histograms(worker)
    region.u64[first : last : lo.SAMPLE_WORDS] = 0
