"""A worker process: one loop, its share of every service, until its stdin ends or a signal comes.

Lives here: the wiring, the timers, the end. Never here: what a flow or a policy does.
Upstream: the supervisor, which hands over the assignment as one line of JSON on stdin, the
listening sockets as inherited descriptors, and by keeping stdin open the news that it is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import json
import logging
import os
import resource
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from time import monotonic_ns
from typing import Any, Final

import uvloop

from config.schema import Config
from lbd.edge.bound import bound, flows_possible, shares
from lbd.edge.fronts import GateMaker, fronts
from lbd.edge.gate import Gate
from lbd.listener import Listener
from lbd.poller import Poller
from lbd.service import Service
from shm.region import Region

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.01
"""How often counters are published and weights looked for."""


@dataclass(frozen=True)
class Assignment:
    """What the supervisor tells a worker: its number, the configuration, a descriptor a listen
    address, and one a table that the workers share."""

    index: int
    config: dict[str, Any]
    listen_fds: list[int]
    table_fds: dict[str, int]

    def dump(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def load(cls, line: bytes) -> Assignment:
        return cls(**json.loads(line))


class Worker:
    """Runs until told to stop; `failed` then tells whether it stopped for an error of its own."""

    def __init__(self, assignment: Assignment, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._config = Config.model_validate(assignment.config)
        self._poller = Poller(loop)
        self._services: list[Service] = []
        self._listeners: list[Listener] = []
        self._draining = False
        self.failed = False
        workers = self._config.workers
        for config in self._config.services:
            region = Region.attach(config.name)
            self._services.append(Service(config, region, assignment.index, self._poller))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = flows_possible(limit, len(os.listdir("/proc/self/fd"))) // len(self._services)
        gates = GateMaker(assignment.table_fds, workers, assignment.index, self._poller)
        self._gates: list[Gate] = []
        for front, fd in zip(fronts(self._config.services), assignment.listen_fds, strict=True):
            services = [self._services[index] for index in front]
            configs = [service.config for service in services]
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            limits = bound(configs, workers, room * len(front), limit)
            wanted = shares(configs, workers)
            if limits.max_flows < sum(wanted):
                log.warning(
                    "service %s: descriptors for %d flows, not %d (see `ulimit -n`)",
                    ", ".join(config.name for config in configs),
                    limits.max_flows,
                    sum(wanted),
                )
            gate = gates.make(services, wanted)
            if gate is not None:
                self._gates.append(gate)
            self._listeners.append(Listener(services[0], sock, self._poller, limits, gate))

    def run(self) -> None:
        loop = self._loop
        loop.set_exception_handler(self._on_error)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._drain)
        # A terminal's Ctrl-C reaches the whole group; the supervisor decides what it means.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        loop.add_reader(sys.stdin.fileno(), self._supervisor_gone)
        self._refresh()
        every_s = [service.check_every_s() for service in self._services]
        self._check(min(every_s + [gate.check_every_s() for gate in self._gates]))
        loop.run_forever()
        now_ns = monotonic_ns()
        for gate in self._gates:
            gate.shut()
        for service in self._services:
            service.shut()
            service.block.publish(now_ns)
        self._poller.close()

    def _refresh(self) -> None:
        self._loop.call_later(REFRESH_S, self._refresh)
        now_ns = monotonic_ns()
        for service in self._services:
            service.refresh(now_ns)

    def _check(self, every_s: float) -> None:
        self._loop.call_later(every_s, self._check, every_s)
        now_ns = monotonic_ns()
        for service in self._services:
            service.check(now_ns)
        for gate in self._gates:
            gate.check(now_ns)
        if self._draining:
            self._stop_if_done()
        else:
            for listener in self._listeners:
                listener.resume()

    def _stop_if_done(self) -> None:
        on_the_way = any(gate.held for gate in self._gates)
        if not on_the_way and not any(service.connections() for service in self._services):
            self._stop()

    def _stop(self) -> None:
        self._loop.stop()

    def _drain(self) -> None:
        """Accept no more, let flows finish, stop after the longest drain time at the latest."""
        if self._draining:
            return
        self._draining = True
        for listener in self._listeners:
            listener.close()
        drain_s = max(service.config.timeouts.drain_s for service in self._services)
        self._loop.call_later(drain_s, self._stop)
        self._loop.call_soon(self._stop_if_done)

    def _supervisor_gone(self) -> None:
        self._loop.remove_reader(sys.stdin.fileno())
        log.warning("the supervisor is gone: finishing the flows that are open")
        self._drain()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Only a fault of ours comes here: stop loudly, the supervisor starts another worker."""
        log.critical("%s", context.get("message"), exc_info=context.get("exception"))
        self.failed = True
        loop.stop()


def main() -> int:
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s lbd worker[{os.getpid()}] %(message)s"
    )
    faulthandler.enable()
    # Objects die by reference counting, flows break their cycles when they end: the collector
    # finds little, and its pauses are felt by every flow.
    gc.set_threshold(50_000, 50, 100)
    # The soft limit is for programs that use select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    loop = uvloop.new_event_loop()
    worker = Worker(Assignment.load(line), loop)
    worker.run()
    with contextlib.suppress(RuntimeError):
        loop.close()
    return 1 if worker.failed else 0


if __name__ == "__main__":
    sys.exit(main())
