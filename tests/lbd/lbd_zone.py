"""A nameserver of the test's own, whose records change while it serves.

Lives here: the zone and its server. Never here: who asks, assertions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from dnslib import AAAA, QTYPE, RCODE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer


@dataclass
class Zone(BaseResolver):  # type: ignore[misc]
    """Records by (name, type); a name without any does not exist. SERVFAIL is all that is said of
    the names in `failing`, and while `broken` of all."""

    records: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    broken: bool = False
    failing: set[str] = field(default_factory=set)
    asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set(self, name: str, *hosts: str) -> None:
        of = {QTYPE.A: [], QTYPE.AAAA: []}
        for host in hosts:
            of[QTYPE.AAAA if ":" in host else QTYPE.A].append(
                AAAA(host) if ":" in host else A(host)
            )
        with self.lock:
            self.records.update({(name, kind): found for kind, found in of.items()})

    def remove(self, name: str) -> None:
        with self.lock:
            self.records = {key: of for key, of in self.records.items() if key[0] != name}

    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        name = str(request.q.qname).rstrip(".")
        with self.lock:
            self.asked += 1
            if self.broken or name in self.failing:
                reply.header.rcode = RCODE.SERVFAIL
                return reply
            if not any(known_name == name for known_name, _ in self.records):
                reply.header.rcode = RCODE.NXDOMAIN
            for data in self.records.get((name, request.q.qtype), []):
                reply.add_answer(RR(request.q.qname, request.q.qtype, ttl=0, rdata=data))
        return reply


@pytest.fixture
def zone() -> Iterator[tuple[Zone, dict[str, Any]]]:
    """The zone, and the resolver section that asks it."""
    records = Zone()
    server = DNSServer(records, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply"))
    server.server.logger = DNSLogger(logf=lambda text: None)
    server.start_thread()
    port = server.server.server_address[1]
    yield records, {"nameservers": [f"127.0.0.1:{port}"], "timeout_ms": 10_000, "tries": 2}
    server.stop()
    server.server.server_close()
    server.thread.join(10)
