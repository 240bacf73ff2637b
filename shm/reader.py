"""Reads a live region into a `Snapshot`: the only way counters and samples leave it.

Lives here: the sum over workers, dead ones included in totals and left out of gauges.
Never here: what the numbers mean. Upstream: `shm.worker`. Downstream: `agent.observe`, metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.frames import FrameRing
from shm.histogram import histograms_view
from shm.peers import FAILURES_TOTAL, PeersReader
from shm.region import Region
from shm.reservoir import read_samples
from shm.snapshot import Exchanges, Ints, Samples, Snapshot
from shm.worker import cache_view

T = TypeVar("T")

PATIENCE: Final = 50
PAUSE_S: Final = 0.001

_FLOATS: Final = tuple(lo.ROW[name] for name in lo.FLOATS)
_SCALAR_TOTALS: Final = {n: i for n, i in lo.SCALAR.items() if n.endswith("_total")}


class Reader:
    """Reusable reader of one region. Not for the data path: it copies, and waits for `retire`.

    It sleeps meanwhile, for the supervisor may be another thread of this process; after PATIENCE
    pauses (the supervisor was stopped half-way) it gives what it last saw whole.
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
        self._caches = [cache_view(region, w) for w in range(layout.workers)]
        self._adopted = [cache[0] for cache in self._caches]
        self._histograms = [histograms_view(region, w) for w in range(layout.workers)]
        self._retired_histograms = histograms_view(region, None)
        self._buckets = np.zeros_like(self._retired_histograms)
        self._counters = np.zeros(self._shape, dtype=np.uint64)
        self._scalars = dict.fromkeys(_SCALAR_TOTALS, 0)
        self._peers = PeersReader(region) if layout.peers else None

    def _reservoir_view(self, worker: int) -> NDArray[np.uint64]:
        """(kinds * slots + 1, K, 2) live samples of one worker."""
        layout = self.region.layout
        count = len(layout.kinds) * layout.slots + 1
        words = count * layout.reservoir * lo.SAMPLE_WORDS
        first = layout.reservoirs(worker)
        return self.region.u64[first : first + words].reshape(
            count, layout.reservoir, lo.SAMPLE_WORDS
        )

    def counters(self) -> NDArray[np.uint64]:
        """(rows, slots) summed over workers; rows of a slot's former users are left out.

        Totals of an identity never go back. While a retirement or a publication stands half done
        longer than the reader waits, this is what was last seen whole, zeros where nothing was.
        """
        table = self._settled(self._sum_counters)
        if table is not None:
            self._counters = table
            return table.copy()
        identities = self.region.identities().copy()
        kept = np.where(self._counters[0] == identities, self._counters, np.uint64(0))
        kept[0] = identities
        return kept

    def _settled(self, read: Callable[[], T | None]) -> T | None:
        """What `read` returns outside of any retirement; None where that could not be had."""
        words = self.region.words
        for _ in range(PATIENCE):
            epoch = words[lo.H_EPOCH]
            found = read() if epoch % 2 == 0 else None
            if found is not None and words[lo.H_EPOCH] == epoch:
                return found
            time.sleep(PAUSE_S)
        return None

    def _sum_counters(self) -> NDArray[np.uint64] | None:
        """None where a worker's newest frame could not be had whole: its share would be missing."""
        # A copy: a slot that changes hands meanwhile must not give its counts to the newcomer.
        identities = self.region.identities().copy()
        total = np.where(self._retired[0] == identities, self._retired, np.uint64(0))
        for ring in self._rings:
            frame = ring.read()
            if frame is None:
                if ring.newest():
                    return None
                continue
            cache = frame[lo.FRAME_HEAD_WORDS :].reshape(self._shape)
            for row in _FLOATS:
                cache[row] = cache[row].view("<f8").astype(np.uint64)
            total += np.where(cache[0] == identities, cache, np.uint64(0))
        total[0] = identities
        return total

    def live(self, rows: Sequence[str]) -> NDArray[np.uint64] | None:
        """(len(rows), slots) some rows of totals as they are now, of the slots' present users; None
        while a retirement stands half done.

        A tenth of what `counters` costs, for who looks often; two rows may be a flow apart.
        """
        wanted = [lo.ROW[row] for row in rows]
        epoch = self.region.words[lo.H_EPOCH]
        identities = self.region.identities().copy()
        total = self._retired[wanted]
        total[:, self._retired[0] != identities] = 0
        for cache in self._caches:
            part = cache[wanted]
            part[:, cache[0] != identities] = 0
            total += part
        same = epoch % 2 == 0 and self.region.words[lo.H_EPOCH] == epoch
        return total if same else None

    def published(self, rows: Sequence[str]) -> NDArray[np.uint64] | None:
        """(len(rows), slots) some rows as the workers last published them, so that they fit each
        other; none of `layout.FLOATS`. None where that cannot be had at once.

        For who looks often: it neither waits nor copies what is not asked for.
        """
        wanted = [lo.ROW[row] for row in rows]
        if self.region.words[lo.H_EPOCH] % 2:
            return None
        identities = self.region.identities().copy()
        total = self._retired[wanted]
        total[:, self._retired[0] != identities] = 0
        for ring in self._rings:
            frame = ring.read()
            if frame is None:
                if ring.newest():
                    return None
                continue
            cache = frame[lo.FRAME_HEAD_WORDS :].reshape(self._shape)
            part = cache[wanted]
            part[:, cache[0] != identities] = 0
            total += part
        return total

    def samples(
        self, slots: NDArray[np.int64], identity: NDArray[np.uint64] | None = None
    ) -> tuple[Samples, ...]:
        """Each kind's (`Layout.kinds`) of the given slots and inter-arrival, workers side by side.

        identity (N,): whose samples, by default those of the slots' present users. What a worker
        still holds of a slot's former user is left out.
        """
        count = self.region.layout.slots
        kinds = len(self.region.layout.kinds)
        if identity is None:
            identity = self.region.identities()[slots]
        rows = np.concatenate([*(slots + kind * count for kind in range(kinds)), [kinds * count]])
        whole = len(slots) == count
        n = len(slots)
        parts = []
        for adopted, view in zip(self._adopted, self._reservoirs, strict=True):
            # Looked at on both sides of the copy: see `WorkerBlock.adopt`.
            before = adopted[slots]
            part = read_samples(view, slice(None) if whole else rows)
            foreign = np.flatnonzero((before != identity) | (adopted[slots] != identity))
            for kind in range(kinds):
                part[foreign + kind * n] = 0
            parts.append(part)
        pairs = np.concatenate(parts, axis=1)
        t_ns, value_ns = pairs[..., 0], pairs[..., 1]
        cuts = [slice(kind * n, (kind + 1) * n) for kind in range(kinds)]
        return tuple(Samples(t_ns[c], value_ns[c]) for c in (*cuts, slice(kinds * n, None)))

    def histograms(self) -> NDArray[np.uint64]:
        """(slots, kinds, buckets) summed over workers, of the slots' present users.

        Live, so that they may be a few milliseconds ahead of `counters`; like those they never go
        back.
        """
        found = self._settled(self._sum_histograms)
        if found is not None:
            self._buckets = found
        return self._buckets.copy()

    def _sum_histograms(self) -> NDArray[np.uint64]:
        identities = self.region.identities().copy()
        foreign = self._retired[0] != identities
        total = self._retired_histograms.copy()
        total[foreign] = 0
        for adopted, live in zip(self._adopted, self._histograms, strict=True):
            # Looked at on both sides of the copy: see `WorkerBlock.adopt`.
            foreign = adopted != identities
            part = live.copy()
            part[foreign | (adopted != identities)] = 0
            total += part
        return total

    def scalars(self) -> dict[str, int]:
        """Workers' scalar totals, dead workers' included; like `counters` they never go back."""
        self._scalars = self._settled(self._sum_scalars) or self._scalars
        return dict(self._scalars)

    def _sum_scalars(self) -> dict[str, int]:
        layout = self.region.layout
        starts = [layout.retired, *(layout.worker(w) for w in range(layout.workers))]
        return {
            name: sum(self.region.words[start + index] for start in starts)
            for name, index in _SCALAR_TOTALS.items()
        }

    def snapshot(self, now_ns: int, usable_only: bool = False, peers: bool = False) -> Snapshot:
        """Everything of the active backends at `now_ns`, or of those that may get new flows.

        peers: with what other balancers tell, where they are heard: q, what waits, and the totals
        of `layout.PEER_SOURCES`; samples are this balancer's own.
        """
        region = self.region
        slots = region.usable_slots() if usable_only else region.active_slots()
        counted = self.counters()
        # Identity 0: its slot is changing hands at this moment.
        slots = slots[counted[0, slots] != 0]
        identity = counted[0, slots]
        table = counted[:, slots].astype(np.int64)
        totals = {name: table[lo.ROW[name]] for name in lo.TOTALS}
        if peers and self._peers is not None:
            told = self._peers.sums(now_ns, slots, identity)
            for name, row in lo.PEER_SOURCES[region.layout.exchanges].items():
                table[lo.ROW[row]] += told[name]
            totals[FAILURES_TOTAL] = told["failures_total"]
        waiting = table[lo.ROW["waiting"]]
        duration, fct, *latency, interarrival = self.samples(slots, identity)
        exchanges = None
        if latency:
            asking = table[lo.ROW["exchanges"]]
            exchanges = Exchanges(
                busy=table[lo.ROW["busy"]],
                waiting=asking,
                waiting_age_ns=summed_age_ns(now_ns, asking, table[lo.ROW["exchanges_start_ns"]]),
                latency=latency[0],
            )
        return Snapshot(
            now_ns=now_ns,
            generation=self.region.generation,
            slots=slots,
            identity=identity,
            flows=table[lo.ROW["flows"]],
            waiting=waiting,
            waiting_age_ns=summed_age_ns(now_ns, waiting, table[lo.ROW["waiting_start_ns"]]),
            totals=totals,
            duration=duration,
            fct=fct,
            interarrival=interarrival,
            exchanges=exchanges,
        )


def summed_age_ns(now_ns: int, count: Ints, start_ns: Ints) -> Ints:
    """(N,) summed ages of `count` things whose starts sum up to `start_ns` modulo 2**64."""
    age_ns: Ints = np.maximum(count * now_ns - start_ns, 0)
    return age_ns
