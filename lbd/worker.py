"""A worker process: one loop, its share of every service, until its stdin ends or a signal comes.

Lives here: the wiring, the timers, the end. Never here: what a flow or a policy does.
Upstream: the supervisor, which hands over the assignment as the first message on stdin (see
`lbd.channel`), then orders, the listening sockets as inherited descriptors, and by keeping stdin
open the news that it is alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
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
from lbd import logs
from lbd.channel import Channel, Message, receive
from lbd.edge.bound import Room
from lbd.edge.fronts import GateMaker, fronts
from lbd.front import Front
from lbd.orders import Orders
from lbd.poller import Poller
from lbd.service import Service
from shm.errors import RegionError
from shm.region import Region

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.01
"""How often counters are published and weights looked for."""


@dataclass(frozen=True)
class Assignment:
    """What the supervisor tells a worker: its number and the configuration; for each service the
    descriptors to accept from and the generation of its region; a descriptor for each table that
    the workers share."""

    index: int
    config: dict[str, Any]
    listen_fds: list[list[int]]
    generations: list[int]
    table_fds: dict[str, int]

    def message(self) -> Message:
        return asdict(self)


class Worker:
    """Runs until told to stop; `failed` then tells whether it stopped for an error of its own."""

    def __init__(self, assignment: Assignment, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._config = Config.model_validate(assignment.config)
        name = f"lbd worker {assignment.index} [{os.getpid()}]"
        self._writer = logs.start(self._config.log, name)
        self._poller = Poller(loop)
        self._services: list[Service] = []
        self._fronts: list[Front] = []
        self._draining = False
        self.failed = False
        self._lines_dropped_told = 0
        scraped = self._config.metrics is not None
        for config, generation in zip(self._config.services, assignment.generations, strict=True):
            region = Region.attach(config.name)
            if region.generation != generation:
                # The name has changed hands since: another worker writes to that block.
                raise RegionError(f"service {config.name}: its region was replaced")
            self._services.append(
                Service(config, region, assignment.index, self._poller, scraped, self._writer)
            )
        workers = self._config.workers
        gates = GateMaker(assignment.table_fds, workers, assignment.index, self._poller)
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = Room.of(limit, len(os.listdir("/proc/self/fd")), len(self._services))
        for front in fronts(self._config.services):
            sockets = [socket.socket(fileno=fd) for fd in assignment.listen_fds[front[0]]]
            for sock in sockets:
                sock.setblocking(False)
            services = [self._services[index] for index in front]
            self._fronts.append(Front(services, sockets, gates, room, workers, self._poller))

    def run(self, line: socket.socket) -> None:
        """`line` is the supervisor's, without the assignment."""
        loop = self._loop
        orders = Orders(self._services, self._configure, self._reopen_log)
        channel = Channel(lambda order: channel.send(orders.answer(order)), self._supervisor_gone)
        loop.run_until_complete(loop.create_connection(lambda: channel, sock=line))
        loop.set_exception_handler(self._on_error)
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGQUIT, self._drain)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        # What reaches the whole group is the supervisor's to decide, a terminal's Ctrl-C for one.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, lambda: None)
        self._refresh()
        self._check()
        loop.run_forever()
        now_ns = monotonic_ns()
        for front in self._fronts:
            front.shut()
        for service in self._services:
            service.shut()
            service.block.publish(now_ns)
        self._poller.close()
        self._writer.close()

    def _reopen_log(self) -> None:
        try:
            self._writer.reopen()
        except OSError as error:
            log.error("the log is not reopened: %s", error)

    def _refresh(self) -> None:
        self._loop.call_later(REFRESH_S, self._refresh)
        now_ns = monotonic_ns()
        dropped = self._writer.dropped_total
        if dropped != self._lines_dropped_told:
            first = self._services[0].block
            first.count("log_lines_dropped_total", dropped - self._lines_dropped_told)
            self._lines_dropped_told = dropped
        for service in self._services:
            service.refresh(now_ns)

    def _check(self) -> None:
        every_s = [service.check_every_s() for service in self._services]
        every_s += [front.check_every_s() for front in self._fronts]
        self._loop.call_later(min(every_s), self._check)
        self._poller.serve()
        now_ns = monotonic_ns()
        for service in self._services:
            service.check(now_ns)
        for front in self._fronts:
            front.check(now_ns)
        if self._draining:
            self._stop_if_done()
        else:
            for front in self._fronts:
                front.resume()

    def _configure(self, config: Config) -> None:
        """Go by another configuration that changes no listener, no worker and no region."""
        self._config = config
        for service, of_service in zip(self._services, config.services, strict=True):
            service.configure(of_service)
        for front in self._fronts:
            front.limit(config.workers)

    def _stop_if_done(self) -> None:
        on_the_way = not all(front.empty for front in self._fronts)
        if not on_the_way and not any(service.connections() for service in self._services):
            self._stop()

    def _stop(self) -> None:
        self._loop.stop()

    def _drain(self) -> None:
        """Accept no more, let flows finish, stop after the longest drain time at the latest."""
        if self._draining:
            return
        self._draining = True
        for front in self._fronts:
            front.close()
        drain_s = max(service.config.timeouts.drain_s for service in self._services)
        self._loop.call_later(drain_s, self._stop)
        self._loop.call_soon(self._stop_if_done)

    def _supervisor_gone(self) -> None:
        log.warning("the supervisor is gone: finishing the flows that are open")
        self._drain()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Only a fault of ours comes here: stop loudly, the supervisor starts another worker."""
        log.critical("%s", context.get("message"), exc_info=context.get("exception"))
        self.failed = True
        loop.stop()


def main() -> int:
    faulthandler.enable()
    # Objects die by reference counting, flows break their cycles when they end: the collector
    # finds little, and its pauses are felt by every flow.
    gc.set_threshold(50_000, 50, 100)
    # The soft limit is for programs that use select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    line = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    line.setblocking(True)
    message = receive(line)
    if message is None:
        return 1
    line.setblocking(False)
    loop = uvloop.new_event_loop()
    worker = Worker(Assignment(**message), loop)
    worker.run(line)
    with contextlib.suppress(RuntimeError):
        loop.close()
    return 1 if worker.failed else 0


if __name__ == "__main__":
    sys.exit(main())
