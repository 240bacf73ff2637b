"""A line a flow, when it ends: who came, where it went, how long it took, how it ended.

Lives here: which flows are logged, and the line. Never here: writing it (`lbd.logs`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from random import random
from time import monotonic_ns

from config.logs import FlowLog as Config
from lbd.flow import Flow, Outcome
from lbd.logs import LineWriter, timestamp
from shm.region import Region
from shm.worker import WorkerBlock


class FlowLog:
    """Of one service in one worker. `opened` at the start of a flow, `ended` at its end."""

    def __init__(
        self, config: Config, service: str, region: Region, block: WorkerBlock, writer: LineWriter
    ) -> None:
        self._config = config
        self._service = service
        self._region = region
        self._block = block
        self._writer = writer
        self._clients: dict[Flow, tuple[str, bool]] = {}

    def opened(self, flow: Flow, client_name: Callable[[], str]) -> None:
        sampled = random() < self._config.sample
        if sampled or self._config.failures:
            self._clients[flow] = (client_name(), sampled)

    def ended(self, flow: Flow, outcome: Outcome, now_ns: int) -> None:
        client, sampled = self._clients.pop(flow, ("", False))
        if not sampled and (not client or outcome is Outcome.COMPLETED):
            return
        fields = {
            "time": timestamp(time.time() - (monotonic_ns() - now_ns) / 1e9),
            "service": self._service,
            "backend": self._region.entry(flow.slot).name,
            "client": client,
            "outcome": outcome.value.removesuffix("_total"),
            "connect_ms": _ms(flow.accepted_ns, flow.connected_ns),
            "response_ms": _ms(flow.connected_ns, flow.first_byte_ns),
            "total_ms": _ms(flow.accepted_ns, now_ns),
            "bytes_in": flow.bytes_in,
            "bytes_out": flow.bytes_out,
            "worker": self._block.index,
        }
        if self._config.format == "json":
            line = json.dumps(fields)
        else:
            shown = {key: "-" if value is None else value for key, value in fields.items()}
            line = self._config.template.format_map(shown)
        if not self._writer.put(line):
            self._block.count("log_dropped_total")


def _ms(from_ns: int, to_ns: int) -> float | None:
    """None where one of both has not happened."""
    return round((to_ns - from_ns) / 1e6, 3) if from_ns and to_ns else None
