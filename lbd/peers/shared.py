"""One service's region as the other balancers share in it: what is told of it, and what is heard.

Lives here: the way from its rows to a datagram's, and from the sums to its peers' block. Never
here: datagrams' way through the network (`lbd.peers.talk`), the sums (`lbd.peers.sums`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lbd.peers.sums import Sums
from lbd.wire.peers import ROWS, Part, key, pack_figures, pack_keys
from shm import layout as lo
from shm.peers import PeersBlock
from shm.reader import Reader, summed_age_ns
from shm.region import Region

_COUNTED: Final = lo.PEER_TOTALS[:-1]
"""The last one, the failures, is a sum of rows."""
_WAITS: Final = 2


class Shared:
    """`region` has room for what peers tell, `name` is the service's among them. Backends are the
    same where their addresses are.

    q is read and shown at every turn, by plain Python: after a pause each numpy call costs tens of
    microseconds, for all that it does is no longer in the caches. The rest is looked at less often.
    """

    def __init__(self, region: Region, name: str) -> None:
        layout = region.layout
        self.region = region
        self.key = key(name)
        self.exchanges = bool(layout.exchanges)
        self.sums = Sums(layout.slots)
        self._block = PeersBlock(region)
        self._reader = Reader(region)
        sources = lo.PEER_SOURCES[layout.exchanges]
        first = [layout.cache(w) + lo.ROW[sources["q"]] * layout.slots for w in _workers(region)]
        self._q = [region.doubles[at : at + layout.slots] for at in first]
        waits = (sources["waiting"], sources["waiting_start_ns"])
        self._sources = (*waits, *(sources[name] for name in _COUNTED), *lo.BACKEND_FAILURES)
        self._bitmap = region.words[lo.H_BITMAP : lo.H_BITMAP + -(-layout.slots // 64)]
        self._backends: tuple[int, bytes] | None = None
        self._identity = np.zeros(layout.slots, dtype=np.uint64)
        self._slots: list[list[int]] = []  # by part
        self._keys: list[bytes] = []
        self._figures: list[bytes] = []

    def follow(self) -> None:
        """See whether backends have come or gone; in time before anything else is done here."""
        # Not the word that grows with every change: states change ten times a second.
        backends = (self.region.words[lo.H_NEXT_IDENTITY], self._bitmap.tobytes())
        if backends == self._backends:
            return
        self._backends = backends
        entries = sorted(self.region.entries(), key=lambda entry: entry.identity)
        # One that was taken out and put back may still be leaving under the same address.
        slot_of = {key(entry.address): entry.slot for entry in entries}
        identity = np.zeros_like(self._identity)
        for entry in entries:
            identity[entry.slot] = entry.identity
        self.sums.follow(slot_of, np.flatnonzero(identity != self._identity))
        self._identity = identity
        keys, slots = [*slot_of], [*slot_of.values()]
        cuts = [slice(at, at + ROWS) for at in range(0, max(1, len(slots)), ROWS)]
        self._keys = [pack_keys(keys[cut]) for cut in cuts]
        self._slots = [slots[cut] for cut in cuts]
        self._figures = []

    def look(self, now_ns: int) -> None:
        """Read anew what is told besides q; it stays as it was where a worker is publishing."""
        table = self._reader.published(self._sources)
        if table is None:
            return
        found = table.view(np.int64)
        waiting = np.maximum(found[0], 0)
        age_ns = summed_age_ns(now_ns, waiting, found[1])
        counted = _WAITS + len(_COUNTED)
        failures = found[counted:].sum(axis=0)
        words = np.vstack((age_ns, found[_WAITS:counted], failures))
        self._figures = [pack_figures(waiting[s], words[:, s]) for s in self._slots]

    def told(self, now_ns: int) -> list[Part]:
        """q as it is now, the rest as it was looked at; empty before that."""
        if not self._figures:
            self.look(now_ns)
        return [
            Part(keys, self._q_of(slots), figures)
            for keys, slots, figures in zip(self._keys, self._slots, self._figures, strict=False)
        ]

    def _q_of(self, slots: list[int]) -> list[int]:
        rows = [[row[slot] for slot in slots] for row in self._q]
        return [int(sum(of_workers)) for of_workers in zip(*rows, strict=True)]

    def show(self, expires_ns: int) -> None:
        """Have dispatch count what is heard, until then; 0 where nobody is."""
        self._block.show(self.sums.q, expires_ns)

    def publish(self, now_ns: int) -> None:
        """Have the agent see it."""
        self.sums.settle()
        self._block.publish(self._identity, self.sums.waits, self.sums.totals, now_ns)


def _workers(region: Region) -> range:
    return range(region.layout.workers)
