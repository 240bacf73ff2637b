"""A flow: what is known of one connection from accept to close, and what each event means.

Lives here: the times and the transitions, pure, with `now_ns` given. Never here: sockets, clocks,
access to shared memory. Upstream: `lbd.relay` tells it what happened. Downstream: a `Ledger`.

    dispatched ──► connected ──► first server byte ──► ended
         └──────────────┴──────────────┴────► ended (with the outcome of whoever ended it)
"""

from __future__ import annotations

import enum
from typing import ClassVar, Protocol

from shm.layout import BACKEND_FAILURES


class Outcome(enum.Enum):
    """How a flow ended; the value is its counter (`shm.layout.TOTALS`)."""

    COMPLETED = "completed_total"
    CONNECT_FAILED = "connect_failed_total"
    CONNECT_TIMEOUT = "connect_timeout_total"
    LOCAL_FAILED = "local_failed_total"
    BACKEND_RESET = "backend_reset_total"
    BACKEND_SILENT = "backend_silent_total"
    BACKEND_TIMEOUT = "backend_timeout_total"
    CLIENT_RESET = "client_reset_total"
    IDLE_TIMEOUT = "idle_timeout_total"
    TOTAL_TIMEOUT = "total_timeout_total"
    SLOW_CLIENT = "slow_client_total"
    WITHDRAWN = "withdrawn_total"
    SHUTDOWN = "shutdown_total"


BACKEND_FAULT = frozenset(outcome for outcome in Outcome if outcome.value in BACKEND_FAILURES)
"""The backend failed the flow: never a quick success."""


class Ledger(Protocol):
    """Who records flows: shared memory and the policies live, a list in tests."""

    def dispatched(self, slot: int, now_ns: int) -> None:
        """A flow was given to `slot`."""

    def connected(self, slot: int, now_ns: int, connect_ns: int) -> None:
        """Its backend connection stands; it now waits for the first server byte."""

    def asked(self, slot: int, wait_ns: int) -> None:
        """The first client byte came `wait_ns` after the flow was accepted."""

    def answered(self, slot: int, now_ns: int, duration_ns: int) -> None:
        """The first server byte came `duration_ns` after the connection stood."""

    def moved(self, slot: int, bytes_in: int, bytes_out: int) -> None:
        """Bytes relayed since the last call, of a flow that may still be open."""

    def ended(self, flow: Flow, outcome: Outcome, now_ns: int) -> None:
        """It is over; `flow` still shows the state it ended in."""


class Flow:
    """Times are 0 until the event has happened. Bytes: `in` from the client, `out` to it.

    turns: whether it wants to be told of the first byte of each turn, not only of each end's first.
    """

    turns: ClassVar[bool] = False

    __slots__ = (
        "accepted_ns",
        "bytes_in",
        "bytes_out",
        "connected_ns",
        "first_byte_ns",
        "first_client_ns",
        "ledger",
        "outcome",
        "slot",
    )

    def __init__(self, ledger: Ledger, slot: int, now_ns: int) -> None:
        self.ledger = ledger
        self.slot = slot
        self.accepted_ns = now_ns
        self.connected_ns = 0
        self.first_client_ns = 0
        self.first_byte_ns = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.outcome: Outcome | None = None
        ledger.dispatched(slot, now_ns)

    def connected(self, now_ns: int) -> None:
        self.connected_ns = now_ns
        self.ledger.connected(self.slot, now_ns, now_ns - self.accepted_ns)

    def asked(self, now_ns: int) -> None:
        """First client byte."""
        self.first_client_ns = now_ns
        self.ledger.asked(self.slot, now_ns - self.accepted_ns)

    def answered(self, now_ns: int) -> None:
        """First server byte."""
        self.first_byte_ns = now_ns
        self.ledger.answered(self.slot, now_ns, now_ns - self.connected_ns)

    @property
    def waiting(self) -> bool:
        """Connected and still without a first server byte."""
        return self.connected_ns > 0 and self.first_byte_ns == 0

    def fault_age_ns(self, now_ns: int) -> int:
        """How long the client had waited for a backend that fails the flow now."""
        return now_ns - self.accepted_ns

    def look(self, now_ns: int) -> None:
        """Told a few times a second while it is open, where `turns`."""

    def end(self, outcome: Outcome, now_ns: int) -> None:
        """Close the account, once; what ends a flow first is its outcome."""
        if self.outcome is None:
            self.outcome = outcome
            self.ledger.ended(self, outcome, now_ns)
