"""The parent process: owns listening sockets and regions, keeps the workers alive.

Lives here: start, restart, stop. Never here: a flow. It touches no byte of traffic, so that it has
no reason to fail, and a worker that does takes only its own flows with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from time import monotonic_ns
from typing import Final

from config.address import Address
from config.schema import Config
from lbd.edge.egress import egress
from lbd.edge.fronts import create_tables, fronts
from lbd.health.monitor import Monitor
from lbd.metrics import Metrics
from lbd.sockets import ListenError, listen, resolve
from lbd.worker import Assignment
from shm.layout import SCALAR, Layout
from shm.region import Region
from shm.worker import retire, scalars_view

# numpy's linear algebra would start threads that a worker never uses.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)

BEAT_S: Final = 0.1
HUNG_S: Final = 10.0
"""A worker whose loop stood still for so long is aborted; faulthandler then tells where it was."""
STOP_S: Final = 5.0
RESTART_MIN_S: Final = 0.05
RESTART_MAX_S: Final = 5.0
STEADY_S: Final = 10.0
"""A worker that lived so long has not failed at its start: no back-off for its successor."""
BIND_PATIENCE_S: Final = 2.0
"""A killed supervisor's workers close their listeners within milliseconds: wait for it."""


class Supervisor:
    """One daemon. `run` returns when it was told to stop and everything is cleaned up.

    Raises ListenError, RegionError before any worker is started; nothing is left behind then.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sockets: list[list[socket.socket]] = []
        self._tables: dict[str, int] = {}
        self._regions: list[Region] = []
        self._monitors: list[Monitor] = []
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._metrics: Metrics | None = None
        self._aborted: set[int] = set()
        self.restarts_total = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            await self._prepare()
            keepers = [asyncio.create_task(self._keep(i)) for i in range(self._config.workers)]
            beat = asyncio.create_task(self._beat())
            await self._stopping.wait()
            await asyncio.gather(*keepers)
            beat.cancel()
        finally:
            self._clean()

    async def _prepare(self) -> None:
        config = self._config
        for service in config.services:
            for backend in service.backends:
                # The workers resolve it themselves; here it fails before anything is bound.
                resolve(backend.address)
            if source := egress(service.source):
                source.prove()
        for front in fronts(config.services):
            self._sockets.append(await _listen(config.services[front[0]].listen, config.workers))
        self._tables = create_tables(config)
        for service in config.services:
            samples = -(-service.reservoir.size // config.workers)
            region = Region.create(service.name, Layout(config.workers, service.slots, samples))
            self._regions.append(region)
            for backend in service.backends:
                region.add_backend(backend.name, str(backend.address), backend.weight)
            self._monitors.append(Monitor(service, region))
        if config.metrics is not None:
            try:
                self._metrics = Metrics(config.metrics, self._regions, lambda: self.restarts_total)
            except OSError as error:
                raise ListenError(config.metrics, error) from None

    def monitor(self, service: str) -> Monitor:
        """The hand on the states of a service's backends. Raises KeyError for a name unknown."""
        for config, monitor in zip(self._config.services, self._monitors, strict=True):
            if config.name == service:
                return monitor
        raise KeyError(service)

    def _clean(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        for monitor in self._monitors:
            monitor.close()
        for region in self._regions:
            region.remove()
        for fd in self._tables.values():
            os.close(fd)
        self._close_listeners()

    def _close_listeners(self) -> None:
        """Refuse new connections: what would still queue here nobody would ever accept."""
        for front, sockets in zip(fronts(self._config.services), self._sockets, strict=False):
            for sock in sockets:
                sock.close()
            listen = self._config.services[front[0]].listen
            if listen.kind == "unix":
                Path(listen.path).unlink(missing_ok=True)
        self._sockets.clear()

    # -- workers

    async def _keep(self, index: int) -> None:
        """Start worker `index`, and a successor whenever it dies, until told to stop."""
        delay_s = RESTART_MIN_S
        while not self._stopping.is_set():
            started_ns = monotonic_ns()
            try:
                process = await self._start(index)
            except OSError as error:
                log.error("worker %d cannot be started: %s", index, error)
                delay_s = await self._pause(min(delay_s * 2, RESTART_MAX_S))
                continue
            self._workers[index] = process
            status = await process.wait()
            del self._workers[index]
            self._aborted.discard(process.pid)
            for region in self._regions:
                retire(region, index)
            if self._stopping.is_set():
                return
            self.restarts_total += 1
            steady = monotonic_ns() - started_ns > STEADY_S * 1e9
            delay_s = RESTART_MIN_S if steady else min(delay_s * 2, RESTART_MAX_S)
            log.error("worker %d (pid %d) %s; restarting", index, process.pid, _ending(status))
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> float:
        """Wait so long, or until told to stop; returns the delay, to be the base of the next."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        return delay_s

    async def _start(self, index: int) -> asyncio.subprocess.Process:
        fds = [sockets[index].fileno() for sockets in self._sockets]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lbd.worker",
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD},
            pass_fds=sorted({*fds, *self._tables.values()}),
        )
        assert process.stdin is not None
        assignment = Assignment(index, self._config.model_dump(mode="json"), fds, self._tables)
        process.stdin.write(assignment.dump())
        if self._stopping.is_set():
            _signal(process, signal.SIGTERM)
        return process

    async def _beat(self) -> None:
        services = ", ".join(f"{s.name} on {s.listen}" for s in self._config.services)
        ready = False
        while True:
            now_ns = monotonic_ns()
            if not ready and all(map(self._last_beat_ns, range(self._config.workers))):
                ready = True
                log.info("ready: %s", services)
            for region in self._regions:
                region.beat(now_ns)
            for monitor in self._monitors:
                monitor.tick(now_ns)
            for index, process in list(self._workers.items()):
                last_ns = self._last_beat_ns(index)
                silent_s = (now_ns - last_ns) * 1e-9 if last_ns else 0.0
                if silent_s > HUNG_S and process.pid not in self._aborted:
                    log.error("worker %d (pid %d) hangs: aborting it", index, process.pid)
                    self._aborted.add(process.pid)
                    _signal(process, signal.SIGABRT)
                elif silent_s > HUNG_S + STOP_S:
                    # A stopped process gets no other signal.
                    _signal(process, signal.SIGKILL)
            await asyncio.sleep(BEAT_S)

    def _last_beat_ns(self, index: int) -> int:
        """0 until the worker serves all services."""
        return min(
            int(scalars_view(region, index)[SCALAR["heartbeat_ns"]]) for region in self._regions
        )

    # -- the end

    def _stop(self, number: signal.Signals) -> None:
        """TERM and INT end flows at once, QUIT lets them finish; a second signal ends them too."""
        graceful = number == signal.SIGQUIT and not self._stopping.is_set()
        log.info("%s: stopping%s", number.name, ", flows may finish" if graceful else "")
        self._stopping.set()
        self._close_listeners()
        for process in self._workers.values():
            _signal(process, signal.SIGQUIT if graceful else signal.SIGTERM)
        if not graceful:
            asyncio.get_running_loop().call_later(STOP_S, self._kill)

    def _kill(self) -> None:
        for process in self._workers.values():
            log.error("worker pid %d did not stop: killing it", process.pid)
            _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        # It may have ended by itself a moment ago; its keeper sees that.
        process.send_signal(number)


async def _listen(address: Address, count: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    patience_s = loop.time() + BIND_PATIENCE_S
    while True:
        try:
            return listen(address, count)
        except ListenError as error:
            if not error.busy or loop.time() > patience_s:
                raise
        await asyncio.sleep(0.05)


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
