"""Records flows: counters and samples into the worker's block, outcomes to the policies.

Lives here: which words each event changes. Never here: sockets; what a flow is (`lbd.flow`).
On the hot path: five events a flow, about a microsecond in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lbd.dispatch import Policy
from lbd.flow import BACKEND_FAULT, Flow, Outcome
from lbd.flow_log import FlowLog
from shm import layout as lo
from shm.histogram import HistogramWriter
from shm.worker import WorkerBlock

MODULUS = 1 << 64
_CONNECT, _DURATION, _FCT = (lo.HISTOGRAM[kind] for kind in ("connect", "duration", "fct"))


class ShmLedger:
    """The `Ledger` of one service in one worker; `histograms` None where nobody reads them.

    `policies` are told of outcomes; they may be exchanged while flows are open. tells_durations:
    whether they go by durations, and not by another measure of latency.
    """

    tells_durations: ClassVar[bool] = True

    def __init__(
        self,
        block: WorkerBlock,
        policies: Sequence[Policy],
        histograms: HistogramWriter | None = None,
    ) -> None:
        rows = block.rows
        self.log: FlowLog | None = None
        self._histograms = histograms
        self._block = block
        self.policies = policies
        self._flows = block.flows
        self._waiting = rows["waiting"]
        self._waiting_start_ns = rows["waiting_start_ns"]
        self._flows_total = rows["flows_total"]
        self._connected_total = rows["connected_total"]
        self._connect_ns_total = rows["connect_ns_total"]
        self._first_client_byte_total = rows["first_client_byte_total"]
        self._client_wait_ns_total = rows["client_wait_ns_total"]
        self._first_byte_total = rows["first_byte_total"]
        self._duration_ns_total = rows["duration_ns_total"]
        self._fct_ns_total = rows["fct_ns_total"]
        self._bytes_in_total = rows["bytes_in_total"]
        self._bytes_out_total = rows["bytes_out_total"]
        self._unanswered_total = rows["unanswered_total"]
        self._outcome = {outcome: rows[outcome.value] for outcome in Outcome}

    def dispatched(self, slot: int, now_ns: int) -> None:
        self._flows[slot] += 1.0
        self._flows_total[slot] += 1
        self._block.sample_arrival(now_ns)

    def connected(self, slot: int, now_ns: int, connect_ns: int) -> None:
        self._connected_total[slot] += 1
        self._connect_ns_total[slot] += connect_ns
        if self._histograms:
            self._histograms.observe(slot, _CONNECT, connect_ns)
        # The sum of starts first: another worker that looks between the two sees too young flows,
        # not one as old as the machine.
        self._waiting_start_ns[slot] = (self._waiting_start_ns[slot] + now_ns) % MODULUS
        self._waiting[slot] += 1

    def asked(self, slot: int, wait_ns: int) -> None:
        self._first_client_byte_total[slot] += 1
        self._client_wait_ns_total[slot] += wait_ns

    def answered(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self._waits_no_more(slot, now_ns - duration_ns)
        self._first_byte_total[slot] += 1
        self._duration_ns_total[slot] += duration_ns
        self._block.sample_duration(slot, now_ns, duration_ns)
        if self._histograms:
            self._histograms.observe(slot, _DURATION, duration_ns)
        if self.tells_durations:
            for policy in self.policies:
                policy.sampled(slot, now_ns, duration_ns)

    def moved(self, slot: int, bytes_in: int, bytes_out: int) -> None:
        """Bytes relayed since the last call, of a flow that may still be open."""
        self._bytes_in_total[slot] += bytes_in
        self._bytes_out_total[slot] += bytes_out

    def ended(self, flow: Flow, outcome: Outcome, now_ns: int) -> None:
        slot = flow.slot
        self._flows[slot] -= 1.0
        self._outcome[outcome][slot] += 1
        if self.log:
            self.log.ended(flow, outcome, now_ns)
        if flow.waiting:
            self._waits_no_more(slot, flow.connected_ns)
        if outcome is Outcome.COMPLETED:
            age_ns = now_ns - flow.accepted_ns
            self._fct_ns_total[slot] += age_ns
            self._block.sample_fct(slot, now_ns, age_ns)
            if self._histograms:
                self._histograms.observe(slot, _FCT, age_ns)
        elif outcome in BACKEND_FAULT:
            age_ns = flow.fault_age_ns(now_ns)
            if not flow.first_byte_ns:
                self._unanswered_total[slot] += 1
            for policy in self.policies:
                policy.failed(slot, now_ns, age_ns)

    def _waits_no_more(self, slot: int, connected_ns: int) -> None:
        self._waiting[slot] -= 1
        self._waiting_start_ns[slot] = (self._waiting_start_ns[slot] - connected_ns) % MODULUS
