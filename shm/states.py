"""The state of every backend: may it get new flows, how many, and why (not).

Lives here: the flags, what follows from them, their one writer and their readers. Never here: who
finds a backend ill (`lbd.health`), the choice of a backend (`lbd.dispatch`).
Writer: the supervisor alone. Readers: workers (a look at one word every few milliseconds), agent,
metrics.

A backend has as many flags as there are reasons, each set and cleared by whom it belongs to: that
its checks succeed again does not end a drain. It is usable without any reason against it. Where too
few are healthy (`panic_below`), all count as healthy: a check that finds nearly everything ill is
more likely wrong than right. What is withdrawn by intent stays out of use even then.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm.errors import RegionError
from shm.region import Region


class Flag(enum.IntFlag):
    """Each flag has one owner: operator, active checks, passive detection, the server itself, the
    configuration (`LEAVING`: it names the backend no more, whose last flows are awaited)."""

    DRAIN = 1
    MAINT = 2
    CHECK_DOWN = 4
    EJECTED = 8
    FEEDBACK_DOWN = 16
    FEEDBACK_DRAIN = 32
    FEEDBACK_MAINT = 64
    SLOW_START = 128
    LEAVING = 256
    FEEDBACK_ZERO = 512


UNHEALTHY = Flag.CHECK_DOWN | Flag.EJECTED | Flag.FEEDBACK_DOWN
FEEDBACK_WITHDRAWN = Flag.FEEDBACK_DRAIN | Flag.FEEDBACK_MAINT | Flag.FEEDBACK_ZERO
WITHDRAWN = Flag.DRAIN | Flag.MAINT | Flag.LEAVING | FEEDBACK_WITHDRAWN

_LABELS = (
    (Flag.LEAVING, "leaving"),
    (Flag.MAINT | Flag.FEEDBACK_MAINT, "maint"),
    (Flag.DRAIN | Flag.FEEDBACK_DRAIN | Flag.FEEDBACK_ZERO, "drain"),
    (Flag.CHECK_DOWN | Flag.FEEDBACK_DOWN, "down"),
    (Flag.EJECTED, "ejected"),
    (Flag.SLOW_START, "slow_start"),
)
LABELS = (*(name for _, name in _LABELS), "up")


@lru_cache(maxsize=1 << 10)
def label(flags: int) -> str:
    """One word for an operator; of several reasons the strongest."""
    return next((name for mask, name in _LABELS if flags & mask), "up")


def usable(flags: NDArray[np.uint64], panic_below: float) -> NDArray[np.bool_]:
    """(N,) which of N backends may get new flows.

    panic_below: a share, 0 to 1, of the backends that are not withdrawn. While fewer are healthy,
    all of them are usable.
    """
    present: NDArray[np.bool_] = flags & np.uint64(WITHDRAWN) == 0
    healthy: NDArray[np.bool_] = present & (flags & np.uint64(UNHEALTHY) == 0)
    if np.count_nonzero(healthy) < panic_below * np.count_nonzero(present):
        return present
    return healthy


def state_rows(region: Region) -> NDArray[np.uint64]:
    """(rows, slots), live, in the order of `shm.layout.STATES`."""
    start = region.layout.states
    words = len(lo.STATES) * region.layout.slots
    return region.u64[start : start + words].reshape(len(lo.STATES), region.layout.slots)


class StateWriter:
    """The supervisor's hand on the states. Raises RegionError for a slot that is not in use."""

    def __init__(self, region: Region, panic_below: float = 0.0) -> None:
        self._region = region
        self._words = region.words
        self._rows = state_rows(region)
        self.panic_below = panic_below

    def set(self, slot: int, flag: Flag, now_ns: int) -> bool:
        """Set a reason. False where it stood already."""
        return self._change(slot, self.flags(slot) | flag, now_ns)

    def clear(self, slot: int, flag: Flag, now_ns: int) -> bool:
        """Take a reason away. False where there was none."""
        return self._change(slot, self.flags(slot) & ~flag, now_ns)

    def flags(self, slot: int) -> Flag:
        return Flag(self.get(slot, "flags"))

    def get(self, slot: int, row: str) -> int:
        return self._words[self._at(slot, row)]

    def current_share(self, slot: int) -> float:
        return self._region.doubles[self._at(slot, "share")]

    def limit(self, slot: int, max_flows: int) -> None:
        """At most so many flows at once, over all workers; 0 for no limit."""
        self._put(slot, "max_flows", max_flows)

    def end_by(self, slot: int, deadline_ns: int) -> None:
        """Flows that are still open then are ended; 0 lets them finish."""
        self._put(slot, "end_by_ns", deadline_ns)

    def share(self, slot: int, share: float) -> None:
        """The part of its fair share of new flows that it gets; positive."""
        self._region.doubles[self._at(slot, "share")] = share
        self._tell()

    def count(self, slot: int, row: str, by: int = 1) -> None:
        """Grow a counter, which readers of states are not told of."""
        self._words[self._at(slot, row)] += by

    def checked(self, slot: int, took_ns: int) -> None:
        """How long the last check took."""
        self._words[self._at(slot, "check_ns")] = took_ns

    def refresh(self) -> None:
        """Publish which slots are usable; to be called where backends came or went."""
        region = self._region
        active = region.active_slots()
        flags = self._rows[lo.STATE["flags"], active]
        bits = np.zeros(lo.MAX_SLOTS, dtype=np.uint8)
        bits[active[usable(flags, self.panic_below)]] = 1
        words = np.packbits(bits, bitorder="little").view("<u8")
        region.u64[lo.H_USABLE : lo.H_USABLE + len(words)] = words
        self._tell()

    def _change(self, slot: int, flags: int, now_ns: int) -> bool:
        at = self._at(slot, "flags")
        if self._words[at] == flags:
            return False
        if label(self._words[at]) != label(flags):
            self._words[self._at(slot, "since_ns")] = now_ns
        self._words[at] = flags
        self.refresh()
        return True

    def _put(self, slot: int, row: str, value: int) -> None:
        self._words[self._at(slot, row)] = value
        self._tell()

    def _tell(self) -> None:
        """After the words it is about: who sees it finds them."""
        self._words[lo.H_STATES] += 1

    def _at(self, slot: int, row: str) -> int:
        taken = 0 <= slot < self._region.layout.slots
        if not taken or not self._words[lo.H_BITMAP + slot // 64] >> slot % 64 & 1:
            raise RegionError(f"slot {slot} is not in use")
        return self._region.layout.states + lo.STATE[row] * self._region.layout.slots + slot


@dataclass(frozen=True)
class States:
    """All backends at one moment. Arrays are (slots,) copies; unused slots hold old news.

    usable: slots that may get new flows, ascending. weight: as configured now.
    """

    usable: list[int]
    weight: NDArray[np.float64]
    flags: NDArray[np.uint64]
    share: NDArray[np.float64]
    max_flows: NDArray[np.int64]
    end_by_ns: NDArray[np.int64]


class StateReader:
    """Any other process's side."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._words = region.words
        self._rows = state_rows(region)
        self._seen = -1

    def poll(self) -> States | None:
        """The states, where anything changed since the last call; the first call always tells."""
        version = self._words[lo.H_STATES]
        if version == self._seen:
            return None
        # What changes while it is copied is told by another version.
        self._seen = version
        rows = self._rows.copy()
        layout = self._region.layout
        start = layout.slot_table + lo.S_WEIGHT
        weight = self._region.f64[start : start + layout.slots * lo.SLOT_WORDS : lo.SLOT_WORDS]
        return States(
            usable=[int(slot) for slot in self._region.usable_slots()],
            weight=weight.copy(),
            flags=rows[lo.STATE["flags"]],
            share=rows[lo.STATE["share"]].view("<f8"),
            max_flows=rows[lo.STATE["max_flows"]].view("<i8"),
            end_by_ns=rows[lo.STATE["end_by_ns"]].view("<i8"),
        )
