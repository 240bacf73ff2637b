"""One service's region: created by the supervisor, attached by workers, agent and tools.

Lives here: creation, recognition and recovery, the header, the slot table and the active bitmap.
Never here: counters (`shm.worker`), weights (`shm.weights`), reading them all (`shm.reader`).
Writer: the supervisor alone. Readers: everybody.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm import segment
from shm.errors import RegionAbsent, RegionBusy, RegionError
from shm.layout import Layout
from shm.segment import Segment


@dataclass(frozen=True)
class SlotEntry:
    """One backend as the slot table names it."""

    slot: int
    identity: int
    name: str
    address: str
    weight: float


class Region:
    """Views of one mapped region.

    `u64`, `i64`, `f64` are numpy views of all words; `words` and `doubles` memoryviews of the same,
    whose item assignment is one aligned store and the fastest there is for a single word.
    """

    def __init__(self, seg: Segment, layout: Layout) -> None:
        self.segment = seg
        self.layout = layout
        self.service = seg.service
        self.words = memoryview(seg.memory).cast("Q")
        self.doubles = memoryview(seg.memory).cast("d")
        self.u64: NDArray[np.uint64] = np.frombuffer(seg.memory, dtype="<u8")
        self.i64 = self.u64.view("<i8")
        self.f64 = self.u64.view("<f8")

    # -- creation and recovery

    @classmethod
    def create(cls, service: str, layout: Layout) -> Region:
        """The owner's region. What a dead owner left under the name is replaced.

        Raises RegionBusy where a live process owns the name, RegionError where it cannot be made.
        """
        name_words = _text_words(service, lo.NAME_BYTES)
        try:
            # Also a segment of size 0: its maker died before it sized it.
            segment.remove_dead(service)
        except RegionBusy as error:
            raise RegionBusy(f"{error} (pid {_owner_pid(service)})") from None
        seg = Segment.create(service, layout.total_bytes)
        region = cls(seg, layout)
        words = region.words
        words[lo.H_MAGIC] = lo.MAGIC
        words[lo.H_VERSION] = lo.VERSION
        words[lo.H_GENERATION] = secrets.randbits(63) | 1
        words[lo.H_WORKERS] = layout.workers
        words[lo.H_SLOTS] = layout.slots
        words[lo.H_RESERVOIR] = layout.reservoir
        words[lo.H_DEPTH] = layout.depth
        words[lo.H_EXCHANGES] = layout.exchanges
        words[lo.H_PEERS] = layout.peers
        words[lo.H_OWNER_PID] = os.getpid()
        words[lo.H_CREATED_NS] = time.monotonic_ns()
        words[lo.H_HEARTBEAT_NS] = time.monotonic_ns()
        words[lo.H_NEXT_IDENTITY] = 1
        region._put(lo.H_NAME, name_words)
        words[lo.H_READY] = 1
        return region

    @classmethod
    def attach(cls, service: str) -> Region:
        """Somebody else's region. RegionAbsent: wait for it; RegionError: it is wrong."""
        seg = Segment.open(service)
        name = segment.file_name(service)
        if len(seg.memory) < lo.HEADER_WORDS * lo.WORD:
            seg.close()
            raise RegionError(f"shm {name} is too small to be a region")
        head = np.frombuffer(seg.memory, dtype="<u8", count=lo.HEADER_WORDS)
        try:
            # Looked at in the order they are written: garbage and another version are told at
            # once instead of being waited for.
            if int(head[lo.H_MAGIC]) not in (0, lo.MAGIC):
                raise RegionError(f"shm {name} is not a region of ours")
            if 0 in (int(head[lo.H_MAGIC]), int(head[lo.H_VERSION])):
                raise RegionAbsent(f"shm {name} is still being created")
            if int(head[lo.H_VERSION]) != lo.VERSION:
                raise RegionError(
                    f"shm {name} has layout version {int(head[lo.H_VERSION])}, not {lo.VERSION}"
                )
            if int(head[lo.H_READY]) != 1:
                raise RegionAbsent(f"shm {name} is still being created")
            geometry = (
                lo.H_WORKERS,
                lo.H_SLOTS,
                lo.H_RESERVOIR,
                lo.H_DEPTH,
                lo.H_EXCHANGES,
                lo.H_PEERS,
            )
            try:
                layout = Layout(*(int(head[word]) for word in geometry))
            except ValueError as error:
                raise RegionError(f"shm {name}: {error}") from None
            if len(seg.memory) != layout.total_bytes:
                raise RegionError(
                    f"shm {name} has {len(seg.memory)} bytes, its header tells {layout.total_bytes}"
                )
        except RegionError:
            seg.close()
            raise
        return cls(seg, layout)

    def close(self) -> None:
        """Drop the roles; the mapping itself goes with the last view."""
        self.segment.close()

    def remove(self) -> None:
        """The owner's clean stop: the name goes, whoever is attached keeps a dead mapping."""
        if not self.segment.replaced():
            segment.unlink(self.service)
        self.close()

    def set_aside(self) -> None:
        """Free the name for a successor, keeping what `put_back` needs. Raises RegionError."""
        segment.rename(self.service, self._aside)

    def put_back(self) -> None:
        """Undo `set_aside`; the name must be free again."""
        segment.rename(self._aside, self.service)

    def forget_aside(self) -> None:
        """After `set_aside`: there is a successor, nobody is to find this region any more."""
        segment.unlink(self._aside)

    @property
    def _aside(self) -> str:
        return f"{self.service}.{self.generation:x}"

    def replaced(self) -> bool:
        """Whether the name now stands for another region, or for none: attach again."""
        return self.segment.replaced()

    # -- header

    @property
    def generation(self) -> int:
        return self.words[lo.H_GENERATION]

    @property
    def owner_pid(self) -> int:
        return self.words[lo.H_OWNER_PID]

    @property
    def heartbeat_ns(self) -> int:
        return self.words[lo.H_HEARTBEAT_NS]

    @property
    def agent_order(self) -> int:
        """What an operator asks of the agent: one of `layout.AGENT_*`."""
        return self.words[lo.H_AGENT_ORDER]

    def order_agent(self, order: int) -> None:
        self.words[lo.H_AGENT_ORDER] = order

    def beat(self, now_ns: int) -> None:
        self.words[lo.H_HEARTBEAT_NS] = now_ns

    def owner_alive(self) -> bool:
        return self.segment.locked(segment.OWNER_BYTE)

    # -- backends

    def add_backend(self, name: str, address: str, weight: float) -> SlotEntry:
        """Take the lowest free slot, O(slots / 64); no other backend moves.

        Raises RegionError where all slots are taken.
        """
        name_words = _text_words(name, lo.SLOT_NAME_BYTES)
        address_words = _text_words(address, lo.SLOT_ADDRESS_BYTES)
        slot = self._free_slot()
        identity = self.words[lo.H_NEXT_IDENTITY]
        self.words[lo.H_NEXT_IDENTITY] = identity + 1
        row = self.layout.slot_table + slot * lo.SLOT_WORDS
        # No identity while the row changes: `entry` may be reading the slot's former user.
        self.words[row + lo.S_IDENTITY] = 0
        self.doubles[row + lo.S_WEIGHT] = weight
        self._put(row + lo.S_NAME, name_words)
        self._put(row + lo.S_ADDRESS, address_words)
        for index in range(len(lo.STATES)):
            self.words[self.layout.states + index * self.layout.slots + slot] = 0
        self.doubles[self.layout.states + lo.STATE["share"] * self.layout.slots + slot] = 1.0
        if self.layout.peers:
            for index in range(len(lo.PEER_ROWS)):
                self.words[self.layout.peer_rows + index * self.layout.slots + slot] = 0
        self.words[row + lo.S_IDENTITY] = identity
        # The bit comes last: whoever sees it finds the row complete.
        self.words[lo.H_BITMAP + slot // 64] |= 1 << slot % 64
        self.words[lo.H_USABLE + slot // 64] |= 1 << slot % 64
        self.words[lo.H_STATES] += 1
        return SlotEntry(slot, identity, name, address, weight)

    def remove_backend(self, slot: int) -> None:
        """Give the slot back; its next user is a new identity. Raises RegionError if it is free."""
        word = lo.H_BITMAP + slot // 64
        if not (0 <= slot < self.layout.slots and self.words[word] >> slot % 64 & 1):
            raise RegionError(f"slot {slot} is not in use")
        self.words[word] &= ~(1 << slot % 64)
        self.words[lo.H_USABLE + slot // 64] &= ~(1 << slot % 64)
        self.words[lo.H_STATES] += 1

    def set_weight(self, slot: int, weight: float) -> None:
        """Another configured weight; positive and finite is the caller's duty."""
        self.doubles[self.layout.slot_table + slot * lo.SLOT_WORDS + lo.S_WEIGHT] = weight
        self.words[lo.H_STATES] += 1

    def active_slots(self) -> NDArray[np.int64]:
        """Slots in use, ascending."""
        return self._slots_of(lo.H_BITMAP)

    def bitmap(self) -> bytes:
        """Which slots are in use, to see whether that has changed."""
        count = -(-self.layout.slots // 64)
        return self.u64[lo.H_BITMAP : lo.H_BITMAP + count].tobytes()

    def usable_slots(self) -> NDArray[np.int64]:
        """Slots in use that may get new flows (`shm.states`), ascending."""
        return self._slots_of(lo.H_USABLE)

    def _slots_of(self, first: int) -> NDArray[np.int64]:
        count = -(-self.layout.slots // 64)
        bits = self.u64[first : first + count].copy()
        return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))

    def identities(self) -> NDArray[np.uint64]:
        """(slots,) view of the slot table's identities."""
        start = self.layout.slot_table + lo.S_IDENTITY
        return self.u64[start : start + self.layout.slots * lo.SLOT_WORDS : lo.SLOT_WORDS]

    def entry(self, slot: int) -> SlotEntry:
        """The row as one user's; identity 0 where the slot never had one, or is changing hands."""
        row = self.layout.slot_table + slot * lo.SLOT_WORDS
        identity = self.words[row + lo.S_IDENTITY]
        found = SlotEntry(
            slot,
            identity,
            self._get_text(row + lo.S_NAME, lo.SLOT_NAME_BYTES),
            self._get_text(row + lo.S_ADDRESS, lo.SLOT_ADDRESS_BYTES),
            self.doubles[row + lo.S_WEIGHT],
        )
        if identity == 0 or self.words[row + lo.S_IDENTITY] != identity:
            return SlotEntry(slot, 0, "", "", 0.0)
        return found

    def entries(self) -> list[SlotEntry]:
        found = (self.entry(int(slot)) for slot in self.active_slots())
        return [entry for entry in found if entry.identity]

    def _free_slot(self) -> int:
        for base in range(0, self.layout.slots, 64):
            taken = self.words[lo.H_BITMAP + base // 64]
            free = (~taken & (taken + 1)).bit_length() - 1
            if free < 64 and base + free < self.layout.slots:
                return base + free
        raise RegionError(f"all {self.layout.slots} slots of shm {self.service} are in use")

    def _put(self, word: int, words: NDArray[np.uint64]) -> None:
        self.u64[word : word + len(words)] = words

    def _get_text(self, word: int, size_bytes: int) -> str:
        raw = self.u64[word : word + size_bytes // lo.WORD].tobytes()
        return raw.rstrip(b"\0").decode(errors="replace")


def _text_words(text: str, size_bytes: int) -> NDArray[np.uint64]:
    """The text as words. Raises RegionError where it does not fit, before anything is written."""
    raw = text.encode()
    if len(raw) > size_bytes:
        raise RegionError(f"{text!r} does not fit {size_bytes} bytes")
    return np.frombuffer(raw.ljust(size_bytes, b"\0"), dtype="<u8")


def _owner_pid(service: str) -> int:
    """As the header tells, 0 where it does not yet."""
    try:
        seg = Segment.open(service)
    except RegionError:
        return 0
    pid = 0
    if len(seg.memory) >= lo.HEADER_WORDS * lo.WORD:
        pid = int(np.frombuffer(seg.memory, dtype="<u8", count=lo.HEADER_WORDS)[lo.H_OWNER_PID])
    seg.close()
    return pid
