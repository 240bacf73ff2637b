"""What other balancers tell, as the region holds it: one block of sums over all of them.

Lives here: its one writer and its readers. Never here: how it is come by (`lbd.peers`).
Writer: the supervisor. Readers: workers, live, for the q of dispatch; the agent, by frames.

Sums, and not a block a balancer: what dispatch adds to its own rows is then one row, however many
others there are.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.frames import FrameRing
from shm.region import Region
from shm.snapshot import Ints, Words

FAILURES_TOTAL: Final = "peers_failed_total"
"""In a snapshot's totals: what backends failed elsewhere, in whatever way."""

_GAUGES: Final = [lo.PEER_ROW[name] for name in lo.PEER_GAUGES]
_WAITS: Final = slice(_GAUGES[1], _GAUGES[-1] + 1)
_TOTALS: Final = slice(lo.PEER_ROW[lo.PEER_TOTALS[0]], len(lo.PEER_ROWS))


def _rows(region: Region) -> NDArray[np.uint64]:
    """(rows, slots), live."""
    start = region.layout.peer_rows
    words = region.u64[start : start + region.layout.peer_rows_words]
    return words.reshape(len(lo.PEER_ROWS), region.layout.slots)


def _ring(region: Region) -> FrameRing:
    layout = region.layout
    return FrameRing(region.u64, layout.peer_frame(0), layout.peer_frame_words, layout.depth)


class PeersBlock:
    """The writer, of a region that has room for it."""

    def __init__(self, region: Region) -> None:
        layout = region.layout
        self._words = region.words
        self._expires = layout.peers_start + lo.PEER_SCALAR["expires_ns"]
        self._rows = _rows(region)
        first = layout.peer_rows + lo.PEER_ROW["q"] * layout.slots
        self._q = region.doubles[first : first + layout.slots]
        self._ring = _ring(region)
        self._body = np.zeros(layout.peer_frame_words - 1, dtype=np.uint64)

    def show(self, q: Sequence[int], expires_ns: int) -> None:
        """Let dispatch count `q`, one a slot, until then; 0 where nobody is heard."""
        self._q[:] = array("d", q)
        self._words[self._expires] = expires_ns

    def publish(self, identity: Words, waits: Ints, totals: Ints, now_ns: int) -> None:
        """For these users of the slots: waits (2, slots), what waits and its starts, live; with
        them, with the q last shown, and with `totals` (PEER_TOTALS, slots) a frame."""
        rows = self._rows
        rows[0] = identity
        rows[_WAITS] = waits.view(np.uint64)
        rows[_TOTALS] = totals.view(np.uint64)
        self._body[0] = now_ns
        self._body[lo.FRAME_HEAD_WORDS - 1 :] = rows.ravel()
        self._ring.write(self._body)


class PeerRows:
    """A worker's side: live rows (slots,), to be summed with those of the workers."""

    def __init__(self, region: Region) -> None:
        rows = _rows(region)
        self._words = region.words
        self._expires = region.layout.peers_start + lo.PEER_SCALAR["expires_ns"]
        q, waiting, start_ns = (rows[row] for row in _GAUGES)
        self.q = q.view("<f8")
        self.waiting = waiting.view("<i8")
        self.waiting_start_ns = start_ns.view("<i8")

    def heard(self, now_ns: int) -> bool:
        """Whether they hold: a supervisor that stands still must not freeze the others' queues."""
        return self._words[self._expires] > now_ns


class PeersReader:
    """Reusable; it copies, and keeps what it last saw whole, so that totals never go back."""

    def __init__(self, region: Region) -> None:
        self._rows = PeerRows(region)
        self._ring = _ring(region)
        self._shape = (len(lo.PEER_ROWS), region.layout.slots)
        self._seen = np.zeros(self._shape, dtype=np.uint64)

    def sums(self, now_ns: int, slots: Ints, identity: Words) -> dict[str, Ints]:
        """(N,) by PEER_ROWS, of the slots' users; gauges are 0 where nobody is heard any more."""
        frame = self._ring.read()
        if frame is not None:
            self._seen = frame[lo.FRAME_HEAD_WORDS :].reshape(self._shape)
        seen = self._seen[:, slots]
        found = np.where(seen[0] == identity, seen, np.uint64(0))
        # Frames come more seldom than q is heard.
        q = np.where(seen[0] == identity, self._rows.q[slots], 0.0)
        found[lo.PEER_ROW["q"]] = q.astype(np.uint64)
        if not self._rows.heard(now_ns):
            found[_GAUGES] = 0
        return dict(zip(lo.PEER_ROWS, found.astype(np.int64), strict=True))
