"""Exchanges: a client's question and a server's answer, told apart within a flow by the turns.

Lives here: the turns of a flow and which words they change. Never here: sockets; which services
want it (`lbd.measure`).

At L4 nobody says where a message ends. A client's byte opens an exchange where none is open, the
next byte of the server answers it: so a connection that is kept open yields a latency for each
request and counts towards q only while it is at work. A protocol with several questions under way
in one connection is seen as one exchange at a time, and what a server says unasked answers nothing.

    new ──► asked ──► answered ──► asked ──► ...
     └──► spare (silent for SPARE_NS) ──► asked

`busy`, the q of `load: exchanges`, counts a flow while it is new, lest a burst of connections all
go where the first one went, and while its exchange is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from lbd.dispatch import Policy
from lbd.flow import Flow, Outcome
from lbd.ledger import MODULUS, ShmLedger
from shm.histogram import HistogramWriter
from shm.worker import WorkerBlock

SPARE_NS: Final = 1_000_000_000
"""A client that has asked nothing by then keeps its connection for later."""


class ExchangeFlow(Flow):
    """`asked_ns` is when the open exchange began, 0 where none is open."""

    __slots__ = ("asked_ns", "busy")

    turns: ClassVar[bool] = True
    ledger: ExchangeLedger

    def __init__(self, ledger: ExchangeLedger, slot: int, now_ns: int) -> None:
        self.asked_ns = 0
        self.busy = True
        super().__init__(ledger, slot, now_ns)

    def asked(self, now_ns: int) -> None:
        """First client byte of a turn."""
        if not self.first_client_ns:
            super().asked(now_ns)
        self.asked_ns = now_ns
        self.ledger.exchange_asked(self.slot, now_ns)
        if not self.busy:
            self._set_busy(True)

    def answered(self, now_ns: int) -> None:
        """First server byte of a turn."""
        if not self.first_byte_ns:
            super().answered(now_ns)
        if self.asked_ns:
            asked_ns, self.asked_ns = self.asked_ns, 0
            self.ledger.exchange_answered(self.slot, now_ns, now_ns - asked_ns)
        if self.busy:
            self._set_busy(False)

    def look(self, now_ns: int) -> None:
        if self.busy and not self.asked_ns and now_ns - self.accepted_ns > SPARE_NS:
            self._set_busy(False)

    def fault_age_ns(self, now_ns: int) -> int:
        """Of the open exchange: the hours before it were no fault."""
        if self.asked_ns:
            return now_ns - self.asked_ns
        return 0 if self.first_byte_ns else super().fault_age_ns(now_ns)

    def _set_busy(self, busy: bool) -> None:
        self.busy = busy
        self.ledger.busied(self.slot, busy)


class ExchangeLedger(ShmLedger):
    """Records exchanges beside flows; their latency is what policies go by."""

    tells_durations: ClassVar[bool] = False

    def __init__(
        self,
        block: WorkerBlock,
        policies: Sequence[Policy],
        histograms: HistogramWriter | None = None,
    ) -> None:
        super().__init__(block, policies, histograms)
        rows = block.rows
        self._busy = block.floats["busy"]
        self._exchanges = rows["exchanges"]
        self._exchanges_start_ns = rows["exchanges_start_ns"]
        self._exchanges_total = rows["exchanges_total"]
        self._exchanges_answered_total = rows["exchanges_answered_total"]
        self._exchange_ns_total = rows["exchange_ns_total"]

    def dispatched(self, slot: int, now_ns: int) -> None:
        super().dispatched(slot, now_ns)
        self._busy[slot] += 1.0

    def busied(self, slot: int, busy: bool) -> None:
        """A flow begins to count towards q, or ceases to."""
        self._busy[slot] += 1.0 if busy else -1.0

    def exchange_asked(self, slot: int, now_ns: int) -> None:
        """A question's first byte went to `slot`."""
        self._exchanges_total[slot] += 1
        # In the order that `connected` has, for the same reason.
        self._exchanges_start_ns[slot] = (self._exchanges_start_ns[slot] + now_ns) % MODULUS
        self._exchanges[slot] += 1

    def exchange_answered(self, slot: int, now_ns: int, latency_ns: int) -> None:
        """Its answer's first byte came `latency_ns` later."""
        self._exchange_over(slot, now_ns - latency_ns)
        self._exchanges_answered_total[slot] += 1
        self._exchange_ns_total[slot] += latency_ns
        self._block.sample_exchange(slot, now_ns, latency_ns)
        for policy in self.policies:
            policy.sampled(slot, now_ns, latency_ns)

    def ended(self, flow: Flow, outcome: Outcome, now_ns: int) -> None:
        super().ended(flow, outcome, now_ns)
        assert isinstance(flow, ExchangeFlow)
        if flow.asked_ns:
            self._exchange_over(flow.slot, flow.asked_ns)
        if flow.busy:
            self.busied(flow.slot, False)

    def _exchange_over(self, slot: int, asked_ns: int) -> None:
        self._exchanges[slot] -= 1
        self._exchanges_start_ns[slot] = (self._exchanges_start_ns[slot] - asked_ns) % MODULUS
