"""What all other balancers tell of one service's backends, summed by slot.

Lives here: the sums, pure; `now` comes as an argument. Never here: whom to believe
(`lbd.peers.known`), where the sums go (`lbd.peers.shared`).

q is that of the last datagram of each balancer and part, at once; what waits and the totals are
taken in by `settle`, now and then. Totals grow by the difference to what the same balancer told
before: one that is heard for the first time, again after a silence, or in another life, adds
nothing at first, so that no reader takes its past for news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lbd.wire.peers import Told, unpack_figures, unpack_keys
from shm.layout import PEER_TOTALS
from shm.snapshot import Ints


@dataclass
class _Part:
    """Of one balancer and part, R rows: as last heard, at heard_ns; slots: where they belong.

    waits (2, R): what waits and its starts; totals (PEER_TOTALS, R). Both as last settled.
    """

    keys: bytes
    slots: list[int]
    q: Sequence[int]
    figures: bytes
    heard_ns: int
    waits: Ints
    totals: Ints | None = None
    settled: bool = False


class Sums:
    """Of one service, in a region of so many slots.

    q, one a slot; waits (2, slots): flows that wait, and the sum of their starts modulo 2**64;
    totals (PEER_TOTALS, slots): sums over all balancers.
    """

    def __init__(self, slots: int) -> None:
        # One slot more than there are, for rows that belong nowhere: no row needs a condition.
        self._nowhere = slots
        self._q = [0] * (slots + 1)
        self._waits: Ints = np.zeros((2, slots + 1), dtype=np.int64)
        self._totals: Ints = np.zeros((len(PEER_TOTALS), slots + 1), dtype=np.int64)
        self._slot_of: Mapping[int, int] = {}
        self._heard: dict[str, dict[int, _Part]] = {}

    @property
    def q(self) -> list[int]:
        return self._q[: self._nowhere]

    @property
    def waits(self) -> Ints:
        return self._waits[:, : self._nowhere]

    @property
    def totals(self) -> Ints:
        return self._totals[:, : self._nowhere]

    def follow(self, slot_of: Mapping[int, int], fresh: Ints) -> None:
        """Backends have come or gone. slot_of: by key, of those there are now; fresh: slots that
        have another user than before, for whom nothing has been counted yet."""
        self.settle()
        self._slot_of = slot_of
        self._q = [0] * len(self._q)
        self._waits[:] = 0
        self._totals[:, fresh] = 0
        for parts in self._heard.values():
            for part in parts.values():
                part.slots = self._places(part.keys)
                for slot, q in zip(part.slots, part.q, strict=True):
                    self._q[slot] += q
                self._waits[:, part.slots] += part.waits

    def hear(self, balancer: str, told: Told, now_ns: int) -> None:
        """Instead of what the same balancer told in the same part."""
        parts = self._heard.setdefault(balancer, {})
        keys, q, figures = told.told
        part = parts.get(told.part)
        if part is None or part.keys != keys:
            if part is not None:
                self._leave_out(part)
            waits = np.zeros((2, len(q)), dtype=np.int64)
            part = _Part(keys, self._places(keys), (0,) * len(q), figures, now_ns, waits)
            parts[told.part] = part
        if part.q != q:
            for slot, before, now in zip(part.slots, part.q, q, strict=True):
                self._q[slot] += now - before
            part.q = q
        if part.figures != figures:
            part.figures, part.heard_ns, part.settled = figures, now_ns, False
        for gone in [at for at in parts if at >= told.parts]:
            self._leave_out(parts.pop(gone))

    def settle(self) -> None:
        """Take in what is new of all but q."""
        for parts in self._heard.values():
            for part in parts.values():
                if not part.settled:
                    self._settle(part)

    def forget(self, balancer: str) -> None:
        """Its flows are none, and what it tells later is told for the first time."""
        for part in self._heard.pop(balancer, {}).values():
            self._leave_out(part)

    def _settle(self, part: _Part) -> None:
        waiting, words = unpack_figures(part.figures)
        # Ages travel, for clocks differ: this balancer's own says when that was.
        waits = np.stack((waiting, waiting * part.heard_ns - words[0]))
        self._waits[:, part.slots] += waits - part.waits
        if part.totals is not None:
            # Less than before: it was taken out there and put back, and counts from zero.
            self._totals[:, part.slots] += np.maximum(words[1:] - part.totals, 0)
        part.waits, part.totals, part.settled = waits, words[1:], True

    def _leave_out(self, part: _Part) -> None:
        if not part.settled:
            self._settle(part)
        for slot, q in zip(part.slots, part.q, strict=True):
            self._q[slot] -= q
        self._waits[:, part.slots] -= part.waits

    def _places(self, keys: bytes) -> list[int]:
        """The slots of the rows; of a backend that is told twice the first."""
        slots = [self._slot_of.get(key, self._nowhere) for key in unpack_keys(keys)]
        seen: set[int] = set()
        for row, slot in enumerate(slots):
            if slot in seen:
                slots[row] = self._nowhere
            seen.add(slot)
        return slots
