"""The other balancers as they are known: who is heard, and which datagrams are to be believed.

Lives here: lives, sequences, silence, and their counts; pure, `now` comes as an argument. Never
here: what is told of backends (`lbd.peers.sums`), sockets.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from lbd.wire.peers import Told


class Refusal(enum.Enum):
    """Why a datagram was not taken; the value is the metric's label."""

    STRANGER = "stranger"  # its address is no member's
    UNPROVEN = "unproven"  # the key
    MALFORMED = "malformed"
    OLD = "old"  # of an earlier life, or reordered, or twice
    OWN = "own"  # this balancer's own
    UNKNOWN = "unknown"  # of a service that is not here, or counts otherwise


@dataclass
class Peer:
    """One other balancer. sender: its life, 0 where it is not heard. last: by service and part, the
    sequence that was taken last. heard_ns: when that was, None for never; up: whether it is heard
    now. lost_total: datagrams missing between those that were taken."""

    name: str
    sender: int = 0
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    heard_ns: int | None = None
    up: bool = False
    sent_total: int = 0
    dropped_total: int = 0
    received_total: int = 0
    lost_total: int = 0

    def hear(self, told: Told, now_ns: int) -> Refusal | None:
        """Whether this is news, and if so, that it was heard.

        A life that began later takes the place of the one before; an earlier one is believed only
        once the later one is silent, for clocks may be set back.
        """
        if told.sender != self.sender:
            if told.sender < self.sender:
                return Refusal.OLD
            self.sender = told.sender
            self.last.clear()
        at = (told.service, told.part)
        last = self.last.get(at)
        if last is not None:
            if told.sequence <= last:
                return Refusal.OLD
            self.lost_total += told.sequence - last - 1
        self.last[at] = told.sequence
        self.heard_ns = now_ns
        self.up = True
        self.received_total += 1
        return None

    def silent(self, now_ns: int, forget_ns: int) -> bool:
        """Whether it just fell silent: from now on nothing is known of it."""
        if not self.up or self.heard_ns is None or now_ns - self.heard_ns <= forget_ns:
            return False
        self.forget()
        return True

    def forget(self) -> None:
        self.up = False
        self.sender = 0
        self.last.clear()
