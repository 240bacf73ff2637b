"""Reads a live region into a `Snapshot`: the only way counters and samples leave it.

Lives here: the sum over workers, dead ones included in totals and left out of gauges.
Never here: what the numbers mean. Upstream: `shm.worker`. Downstream: `agent.observe`, metrics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.frames import ATTEMPTS, FrameRing
from shm.region import Region
from shm.reservoir import read_samples
from shm.snapshot import Samples, Snapshot


class Reader:
    """Reusable reader of one region. Not for the data path: it copies."""

    def __init__(self, region: Region) -> None:
        layout = region.layout
        self.region = region
        self._rings = [
            FrameRing(region.u64, layout.frame(w, 0), layout.frame_words, layout.depth)
            for w in range(layout.workers)
        ]
        self._shape = (len(lo.ROWS), layout.slots)
        start = layout.retired + lo.SCALAR_WORDS
        self._retired = region.u64[start : start + layout.cache_words].reshape(self._shape)
        self._reservoirs = [self._reservoir_view(w) for w in range(layout.workers)]

    def _reservoir_view(self, worker: int) -> NDArray[np.uint64]:
        """(kinds * slots + 1, K, 2) live samples of one worker."""
        layout = self.region.layout
        count = len(lo.KINDS) * layout.slots + 1
        words = count * layout.reservoir * lo.SAMPLE_WORDS
        first = layout.reservoirs(worker)
        return self.region.u64[first : first + words].reshape(
            count, layout.reservoir, lo.SAMPLE_WORDS
        )

    def counters(self) -> NDArray[np.uint64]:
        """(rows, slots) summed over workers; rows of a slot's former users are left out."""
        identities = self.region.identities()
        for _ in range(ATTEMPTS):
            epoch = self.region.words[lo.H_EPOCH]
            total = np.where(self._retired[0] == identities, self._retired, np.uint64(0))
            for ring in self._rings:
                frame = ring.read()
                if frame is None:
                    continue
                cache = frame[lo.FRAME_HEAD_WORDS :].reshape(self._shape)
                flows = lo.ROW["flows"]
                cache[flows] = cache[flows].view("<f8").astype(np.uint64)
                total += np.where(cache[0] == identities, cache, np.uint64(0))
            total[0] = identities
            if epoch % 2 == 0 and self.region.words[lo.H_EPOCH] == epoch:
                break
        return total

    def samples(self, slots: NDArray[np.int64]) -> tuple[Samples, Samples, Samples]:
        """Duration, FCT of the given slots and inter-arrival, the workers side by side."""
        count = self.region.layout.slots
        rows = np.concatenate([slots, slots + count, [len(lo.KINDS) * count]])
        whole = len(slots) == count
        parts = [read_samples(view, slice(None) if whole else rows) for view in self._reservoirs]
        pairs = np.concatenate(parts, axis=1)
        n = len(slots)
        t_ns, value_ns = pairs[..., 0], pairs[..., 1]
        return (
            Samples(t_ns[:n], value_ns[:n]),
            Samples(t_ns[n : 2 * n], value_ns[n : 2 * n]),
            Samples(t_ns[2 * n :], value_ns[2 * n :]),
        )

    def scalars(self) -> dict[str, int]:
        """Workers' scalar totals, dead workers' included."""
        layout = self.region.layout
        starts = [layout.retired, *(layout.worker(w) for w in range(layout.workers))]
        return {
            name: sum(self.region.words[start + index] for start in starts)
            for name, index in lo.SCALAR.items()
            if name.endswith("_total")
        }

    def snapshot(self, now_ns: int) -> Snapshot:
        """Everything of the active backends at `now_ns`."""
        slots = self.region.active_slots()
        table = self.counters()[:, slots].astype(np.int64)
        waiting = table[lo.ROW["waiting"]]
        duration, fct, interarrival = self.samples(slots)
        return Snapshot(
            now_ns=now_ns,
            generation=self.region.generation,
            slots=slots,
            identity=table[lo.ROW["identity"]].astype(np.uint64),
            flows=table[lo.ROW["flows"]],
            waiting=waiting,
            waiting_age_ns=np.maximum(waiting * now_ns - table[lo.ROW["waiting_start_ns"]], 0),
            totals={name: table[lo.ROW[name]] for name in lo.TOTALS},
            duration=duration,
            fct=fct,
            interarrival=interarrival,
        )
