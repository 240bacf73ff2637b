"""Reads a live region into a `Snapshot`: the only way counters and samples leave it.

Lives here: the sum over workers, dead ones included in totals and left out of gauges.
Never here: what the numbers mean. Upstream: `shm.worker`. Downstream: `agent.observe`, metrics.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.frames import FrameRing
from shm.region import Region
from shm.reservoir import read_samples
from shm.snapshot import Samples, Snapshot
from shm.worker import cache_view

PATIENCE: Final = 50
PAUSE_S: Final = 0.001


class Reader:
    """Reusable reader of one region. Not for the data path: it copies, and waits for `retire`.

    While the supervisor moves a dead worker's counts the sums over workers are not to be had. The
    reader sleeps meanwhile, for the supervisor may be another thread of this process; after
    PATIENCE pauses (it was stopped or killed half-way) the last whole sums are given again.
    """

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
        self._samples_of = [cache_view(region, w)[0] for w in range(layout.workers)]
        self._last_counters: NDArray[np.uint64] | None = None
        self._last_scalars: dict[str, int] | None = None

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
        for _ in range(PATIENCE):
            epoch = self.region.words[lo.H_EPOCH]
            total, whole = self._sum_counters()
            if whole and self._undisturbed(epoch):
                self._last_counters = total
                break
            time.sleep(PAUSE_S)
        return total if self._last_counters is None else self._last_counters.copy()

    def _sum_counters(self) -> tuple[NDArray[np.uint64], bool]:
        """The sums, and whether every worker that ever published is in them."""
        # A copy: a backend that changes meanwhile must not get its predecessor's counts.
        identities = self.region.identities().copy()
        total = np.where(self._retired[0] == identities, self._retired, np.uint64(0))
        whole = True
        flows = lo.ROW["flows"]
        for ring in self._rings:
            frame = ring.read()
            if frame is None:
                whole = whole and ring.newest() == 0
                continue
            cache = frame[lo.FRAME_HEAD_WORDS :].reshape(self._shape)
            cache[flows] = cache[flows].view("<f8").astype(np.uint64)
            total += np.where(cache[0] == identities, cache, np.uint64(0))
        total[0] = identities
        return total, whole

    def _undisturbed(self, epoch: int) -> bool:
        """Whether no worker was being retired since the epoch was `epoch`."""
        return epoch % 2 == 0 and self.region.words[lo.H_EPOCH] == epoch

    def samples(self, slots: NDArray[np.int64]) -> tuple[Samples, Samples, Samples]:
        """Duration, FCT of the given slots and inter-arrival, the workers side by side.

        Empty where a worker has not adopted the slot's backend yet: what lies there is of the
        slot's former user.
        """
        count = self.region.layout.slots
        n = len(slots)
        rows = np.concatenate([slots, slots + count, [len(lo.KINDS) * count]])
        whole = n == count
        identities = self.region.identities()[slots]
        parts = []
        for view, mine in zip(self._reservoirs, self._samples_of, strict=True):
            # Looked at before the copy: a worker writes the identity after emptying the reservoir.
            others = np.flatnonzero(mine[slots] != identities)
            part = read_samples(view, slice(None) if whole else rows)
            part[others] = 0
            part[others + n] = 0
            parts.append(part)
        pairs = np.concatenate(parts, axis=1)
        t_ns, value_ns = pairs[..., 0], pairs[..., 1]
        return (
            Samples(t_ns[:n], value_ns[:n]),
            Samples(t_ns[n : 2 * n], value_ns[n : 2 * n]),
            Samples(t_ns[2 * n :], value_ns[2 * n :]),
        )

    def scalars(self) -> dict[str, int]:
        """Workers' scalar totals, dead workers' included."""
        for _ in range(PATIENCE):
            epoch = self.region.words[lo.H_EPOCH]
            totals = self._sum_scalars()
            if self._undisturbed(epoch):
                self._last_scalars = totals
                break
            time.sleep(PAUSE_S)
        return dict(totals if self._last_scalars is None else self._last_scalars)

    def _sum_scalars(self) -> dict[str, int]:
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
