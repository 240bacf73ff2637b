"""Clients that hold a flow without using it: silent ones, and those that send drop by drop.

Lives here: the judgement, pure. Never here: when it is made, or what follows (`lbd.service`).
A client that waits for a slow answer has sent its request and sends no more: it is none of these.
"""

from __future__ import annotations

from config.edges import Limits
from lbd.flow import Flow


class Slow:
    """One service's limits on clients before the first answer."""

    def __init__(self, limits: Limits) -> None:
        drops = limits.slow_client
        self._silent_ns = int((limits.first_byte_s or 0) * 1e9)
        self._after_ns = int(drops.after_s * 1e9) if drops else 0
        self._bytes_per_ns = drops.bytes_per_s * 1e-9 if drops else 0.0
        self.within_ns = min(ns for ns in (self._silent_ns, self._after_ns) if ns)

    def judge(self, flow: Flow, received: int, now_ns: int) -> bool:
        """Whether to end the flow. received: bytes from the client; flow.bytes_in of them had come
        when it was judged last."""
        if not flow.waiting:
            return False
        age_ns = now_ns - flow.connected_ns
        if not received:
            return 0 < self._silent_ns < age_ns
        sending = received > flow.bytes_in
        return 0 < self._after_ns < age_ns and sending and received < self._bytes_per_ns * age_ns


def slow(limits: Limits) -> Slow | None:
    """None where there are no such limits."""
    return Slow(limits) if limits.first_byte_s or limits.slow_client else None
