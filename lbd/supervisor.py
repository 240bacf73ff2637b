"""The parent process: owns listening sockets and regions, and has one configuration in force.

Lives here: start, reload, stop. Never here: a flow; keeping workers alive (`lbd.fleet`). It touches
no byte of traffic, so that it has no reason to fail.

What changes of a configuration that is reloaded is taken over in place. Only where listeners,
workers or regions change, new workers start on the same sockets, and the old ones are drained once
the new ones serve.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic_ns
from typing import Final

from config.changes import Change, changes, needs_new_workers
from config.load import ConfigError, load
from config.schema import Config
from lbd import logs, upgrade
from lbd.activation import Activation, ActivationError
from lbd.api.server import ApiServer
from lbd.backends import Backends
from lbd.edge.egress import SourceError, prove
from lbd.exposition import Exposition
from lbd.fleet import Fleet
from lbd.health.monitor import Monitor
from lbd.http import HttpServer, Refused, metrics_application
from lbd.listening import Listening
from lbd.logs import LineWriter
from lbd.metrics import Metrics
from lbd.names.metrics import add_names
from lbd.names.names import Names
from lbd.peers.metrics import add_peers
from lbd.peers.peering import Peering
from lbd.peers.talk import Talk
from lbd.process_metrics import Process
from lbd.readiness import add_readiness
from lbd.reload_error import ReloadError
from lbd.sockets import ListenError, listen, resolve
from lbd.status.page import StatusPage
from lbd.status.state import State, look
from sd.notify import Notifier
from sd.sockets import take
from shm.errors import RegionError
from shm.layout import AGENT_RUN, ROW, Layout
from shm.reader import Reader
from shm.region import Region

log = logging.getLogger(__name__)

MANAGER: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a service manager tells this process, and an upgrade hands on."""
BEAT_S: Final = 0.1
READY_S: Final = 20.0
"""New workers that do not serve by then are given up, and the old ones stay."""
CHECK_S: Final = 20.0
AGAIN_S: Final = 1.0
"""Until a worker that has not confirmed a configuration is told again; until what failed is tried
again."""


def _http_differs(before: Config, after: Config) -> bool:
    return (before.metrics, before.status_page) != (after.metrics, after.status_page)


def _resolve_all(before: Config, after: Config) -> None:
    """The workers resolve names themselves; here it fails before anything changes.

    Names that were there before are not looked up again. Raises ReloadError.
    """
    known = {backend.address for service in before.services for backend in service.backends}
    for service in after.services:
        try:
            prove(service.source)
        except SourceError as error:
            raise ReloadError(f"service {service.name}: {error}") from None
        for backend in service.backends:
            if backend.address not in known and backend.dns is None:
                try:
                    resolve(backend.address)
                except OSError as error:
                    raise ReloadError(f"service {service.name}: {error}") from None


class Supervisor:
    """One daemon. `run` returns when it was told to stop and everything is cleaned up.

    Raises ListenError, ActivationError, RegionError before any worker is started; nothing is left
    behind then.
    """

    def __init__(self, config: Config, path: str, writer: LineWriter | None = None) -> None:
        """`path` is the file that `config` was read from; `writer` that of this process's log, None
        where that is not ours to open again."""
        self.path = os.path.abspath(path)
        self._writer = writer
        self.config = config
        self.file_config = config
        self._inherited = upgrade.inherited(os.environ)
        self._told = {name: os.environ[name] for name in MANAGER if name in os.environ}
        self._manager = Notifier.of(os.environ)
        self._listening = Listening(Activation(take(os.environ)), self._inherited.listening)
        self._fleet: Fleet | None = None
        self._leaving: list[Fleet] = []
        self.backends: list[Backends] = []
        self._changing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self.started_ns = monotonic_ns()
        self._metrics = Metrics(self.started_ns)
        self._http: HttpServer | None = None
        self._api: ApiServer | None = None
        self._exchanging_api = asyncio.Lock()
        self._restarts_before = 0
        self._messages_dropped_before = 0
        self._page: StatusPage | None = None
        self._refused = Refused()
        self._tasks: set[asyncio.Task[None]] = set()
        self._names = Names(self._names_changed)
        self._peering = Peering(lambda: [(one.region, one.shared_as) for one in self.backends])

    @property
    def fleet(self) -> Fleet:
        assert self._fleet is not None
        return self._fleet

    def _fleets(self) -> list[Fleet]:
        """Those that are drained too."""
        return [*self._leaving, *([self._fleet] if self._fleet is not None else [])]

    @property
    def regions(self) -> list[Region]:
        """Of all services, in their order."""
        return self.fleet.regions

    @property
    def restarts_total(self) -> int:
        return self._restarts_before + self.fleet.restarts_total

    @property
    def _viewers_refused_total(self) -> int:
        return self._page.refused_total if self._page is not None else 0

    @property
    def draining_workers(self) -> int:
        """Of former configurations."""
        return sum(len(fleet.workers) for fleet in self._leaving) + len(self._inherited.lines)

    @property
    def peers(self) -> Talk | None:
        """What is said and heard with other balancers; None where there are none."""
        return self._peering.talk

    @property
    def changes(self) -> list[Change]:
        """What was changed at run time, against the file as it was last read."""
        return changes(self.file_config, self.config)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._in_background, self._reload_logged)
        loop.add_signal_handler(signal.SIGUSR1, self._in_background, self._reopen_log)
        loop.add_signal_handler(signal.SIGUSR2, self._in_background, self._upgrade)
        upgrade.unblock_signals()
        try:
            await self._prepare()
            beat = asyncio.create_task(self._beat())
            await self._stopping.wait()
            await asyncio.gather(*(fleet.gone() for fleet in self._fleets()))
            await self._inherited.gone()
            beat.cancel()
        finally:
            await self._clean()

    async def _prepare(self) -> None:
        config = self.config
        for service in config.services:
            for backend in service.backends:
                # The workers resolve it themselves; here it fails before anything is bound.
                if backend.dns is None:
                    resolve(backend.address)
            prove(service.source)
        await self._names.prepare(config)
        await self._listening.prepare(config)
        made: list[Backends] = []
        try:
            self._make_regions(config, made)
            await self._peering.take(self._peering.prepare(config.peers))
            metrics = listen(config.metrics, 1)[0] if config.metrics is not None else None
            if config.api is not None:
                self._api = ApiServer(self, config.api, self._refused)
                await self._api.start()
        except BaseException:
            for backends in made:
                backends.remove()
            raise
        if not self._stopping.is_set():
            self._take_over(config, made)
            if metrics is not None:
                self._http = self._http_server(config)
                await self._http.start(metrics)
            self._names.follow(config)

    def _make_regions(self, config: Config, made: list[Backends]) -> None:
        """One a service, appended to `made` as they come to be. Raises RegionError."""
        for service in config.services:
            samples = -(-service.reservoir.size // config.workers)
            exchanges = int(service.load == "exchanges")
            layout = Layout(
                config.workers,
                service.slots,
                samples,
                exchanges=exchanges,
                peers=int(config.peers is not None),
            )
            region = Region.create(service.name, layout)
            try:
                made.append(Backends(region, self._names.expanded(service)))
            except BaseException:
                region.remove()
                raise

    def _take_over(self, config: Config, made: list[Backends]) -> None:
        shares = [self._listening.shares(s.listen, config.workers) for s in config.services]
        self._fleet = Fleet(config, shares, [backends.region for backends in made])
        self.backends = made
        self._fleet.start()

    def _http_server(self, config: Config) -> HttpServer:
        application = metrics_application(self.scrape)
        add_readiness(application, lambda: self.fleet.serving and not self._stopping.is_set())
        if config.status_page:
            self._page = StatusPage(application, self._look, self._viewers_refused_total)
        return HttpServer(application, self._refused)

    def _look(self) -> State:
        fleet = self.fleet
        return look(fleet.config, fleet.regions, len(fleet.workers), self.restarts_total)

    async def _clean(self) -> None:
        await self._names.close()
        await self._peering.close()
        if self._http is not None:
            await self._http.close()
        if self._api is not None:
            await self._api.close()
        for backends in self.backends:
            backends.remove()
        self._listening.release(None)

    def scrape(self, out: Exposition) -> None:
        process = Process(
            restarts_total=self.restarts_total,
            log_lines_dropped_total=self._writer.dropped_total if self._writer is not None else 0,
            messages_dropped_total=self._messages_dropped_before
            + sum(fleet.messages_dropped_total for fleet in self._fleets()),
            viewers_refused_total=self._viewers_refused_total,
            http_full_total=self._refused.full_total,
            http_silent_total=self._refused.silent_total,
        )
        now_ns = monotonic_ns()
        self._metrics.write(out, self.config, self.regions, process, now_ns)
        add_names(out, self._names, self.config.services)
        add_peers(out, self.peers, now_ns)

    def monitor(self, service: str) -> Monitor:
        """The hand on the states of a service's backends. Raises KeyError for a name unknown."""
        for backends in self.backends:
            if backends.region.service == service:
                return backends.monitor
        raise KeyError(service)

    # -- what is in force

    async def reload(self) -> list[Change]:
        """Take the file into force, run-time changes undone; returns what changed.

        Raises ConfigError, ReloadError, and changes nothing then.
        """
        async with self._changing:
            config = await asyncio.to_thread(load, self.path)
            done = await self._take(config)
            self.file_config = config
            return done

    async def edit(self, edit: Callable[[Config], Config]) -> list[Change]:
        """Take what `edit` makes of the configuration into force; returns what changed.

        Raises ReloadError and what `edit` raises, and changes nothing then.
        """
        async with self._changing:
            return await self._take(edit(self.config))

    async def _take(self, config: Config) -> list[Change]:
        if self._stopping.is_set():
            raise ReloadError("the balancer is stopping")
        before = self.config
        try:
            await self._names.prepare(config)
        except OSError as error:
            raise ReloadError(str(error)) from None
        await asyncio.to_thread(_resolve_all, before, config)
        try:
            api = self._other_api(config)
            http = peers = None
            try:
                peers = self._peering.prepare(config.peers)
                http = await self._other_http(config)
                if needs_new_workers(before, config):
                    await self._replace_workers(config)
                else:
                    await self._apply_in_place(config)
            except BaseException:
                await self._peering.leave(peers)
                if http is not None:
                    await http.close()
                if api is not None:
                    api.discard()
                raise
        except (ListenError, ActivationError, RegionError, OSError) as error:
            raise ReloadError(str(error)) from None
        await self._peering.take(peers)
        if _http_differs(before, config):
            if self._http is not None:
                await self._http.close()
            self._http = http
        if before.api != config.api:
            # Not here: the request that asked for it is still to be answered.
            self._in_background(partial(self._exchange_api, self._api, api))
            self._api = api
        if before.log != config.log:
            self._log_elsewhere(config)
        if before.agent != config.agent:
            log.warning(
                "the agent's section has changed: it is in force once the agent is reloaded, too"
            )
        self.config = config
        self._names.follow(config)
        return changes(before, config)

    def _log_elsewhere(self, config: Config) -> None:
        """The workers do already."""
        if self._writer is None:
            return
        try:
            writer = logs.start(config.log, "lbd")
        except OSError as error:
            log.error("cannot log to %s: %s", config.log.file, error.strerror)
            return
        self._writer.close()
        self._writer = writer

    def _other_api(self, config: Config) -> ApiServer | None:
        """Already listening, where there is to be another one. Raises ListenError."""
        if config.api is None or config.api == self.config.api:
            return None
        return ApiServer(self, config.api, self._refused, self._api)

    async def _exchange_api(self, before: ApiServer | None, after: ApiServer | None) -> None:
        async with self._exchanging_api:
            if after is not None:
                await after.start()
            if before is not None:
                await before.close(after)

    async def _other_http(self, config: Config) -> HttpServer | None:
        """Already listening, where there is to be another one. Raises ListenError."""
        if config.metrics is None or not _http_differs(self.config, config):
            return None
        server = self._http_server(config)
        if self._http is not None and config.metrics == self.config.metrics:
            await server.start(self._http.same_socket())
        else:
            await server.listen(config.metrics)
        return server

    async def _apply_in_place(self, config: Config) -> None:
        services = [self._names.expanded(service) for service in config.services]
        for backends, service in zip(self.backends, services, strict=True):
            backends.check(service)
        now_ns = monotonic_ns()
        for backends, service in zip(self.backends, services, strict=True):
            backends.apply(service, now_ns)
        await self._confirmed(config)

    async def _names_changed(self) -> bool:
        """Take over the addresses that names stand for now. False where that has to wait."""
        async with self._changing:
            try:
                await self._apply_in_place(self.config)
            except RegionError as error:
                log.error("%s; its addresses stay for now", error)
                return False
            return True

    async def _confirmed(self, config: Config) -> None:
        """Have all workers take it over: at once, or when those that are busy come to it."""
        if await self.fleet.configure(config):
            for backends in self.backends:
                backends.confirmed()
            return
        log.warning("a worker has not confirmed the new configuration yet")

        async def again() -> None:
            await asyncio.sleep(AGAIN_S)
            async with self._changing:
                if self.config is config and not self._stopping.is_set():
                    await self._confirmed(config)

        self._in_background(again)

    async def _replace_workers(self, config: Config) -> None:
        """New workers on the sockets there are and those that are missing; then drain the old.

        Raises what `Listening.prepare` and `Region.create` raise, and ReloadError where the new
        workers do not come to serve; the old ones then go on as before.
        """
        old, old_backends = self.fleet, self.backends
        await self._listening.prepare(config)
        old.hold()
        for region in old.regions:
            region.set_aside()
        made: list[Backends] = []
        orders = {region.service: region.agent_order for region in old.regions}
        try:
            self._make_regions(config, made)
            for backends in made:
                backends.region.order_agent(orders.get(backends.region.service, AGENT_RUN))
            self._take_over(config, made)
            await self._serving(self.fleet)
        except BaseException:
            if self._fleet is not old:
                self.fleet.end(graceful=False)
                await self.fleet.gone()
                self._fleet, self.backends = old, old_backends
            for backends in made:
                backends.remove()
            for region in old.regions:
                region.put_back()
            self._listening.release(self.config)
            old.resume()
            raise
        self._restarts_before += old.restarts_total
        self._listening.release(config)
        for region in old.regions:
            region.forget_aside()
        for backends in old_backends:
            backends.monitor.close()
        old.end(graceful=True)
        self._leaving.append(old)
        self._in_background(partial(self._let_go, old))

    async def _serving(self, fleet: Fleet) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + READY_S
        while not fleet.ready:
            if loop.time() > deadline_s or self._stopping.is_set():
                raise ReloadError(f"the new workers did not serve within {READY_S:g} s")
            await asyncio.sleep(0.01)

    async def _let_go(self, fleet: Fleet) -> None:
        await fleet.gone()
        for region in fleet.regions:
            region.close()
        self._leaving.remove(fleet)
        self._messages_dropped_before += fleet.messages_dropped_total
        log.info("the workers of the former configuration are gone")

    async def _reload_logged(self) -> None:
        self._manager.tell(RELOADING=1, MONOTONIC_USEC=monotonic_ns() // 1000)
        try:
            done = await self.reload()
        except (ConfigError, ReloadError) as error:
            for line in str(error).splitlines():
                log.error("not reloaded: %s", line)
        else:
            log.info("reloaded %s: %d changes", self.path, len(done))
            for change in done:
                log.info("  %s", change)
        self._manager.tell(READY=1)

    async def _upgrade(self) -> None:
        """Become the program that is installed now; returns only where that cannot be."""
        async with self._changing:
            problem = await upgrade.problem(self.path, CHECK_S)
            if problem is None and not self._stopping.is_set():
                log.info("upgrading: the new program takes over")
                workers = [worker for fleet in self._fleets() for worker in fleet.workers.values()]
                # Those of programs before this one are still its children, with flows to finish.
                lines = {**self._inherited.lines, **upgrade.lines_of(workers)}
                # While the new program loads, nobody beats.
                self._manager.be_patient(READY_S)
                problem = upgrade.become_new(self._listening, lines, self._told)
                self._manager.be_patient(None)
            log.error("not upgraded: %s", problem or "the balancer is stopping")

    def _in_background(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reopen_log(self) -> None:
        try:
            if self._writer is not None:
                self._writer.reopen()
        except OSError as error:
            log.error("the log is not reopened: %s", error)
        for fleet in self._fleets():
            await fleet.ask({"order": "reopen"})

    # -- watching

    async def _beat(self) -> None:
        services = ", ".join(f"{s.name} on {s.listen}" for s in self.config.services)
        ready = False
        while True:
            now_ns = monotonic_ns()
            if not ready and self.fleet.ready:
                ready = True
                log.info("ready: %s", services)
                self._manager.tell(READY=1)
                if self._inherited.listening:
                    self._manager.be_patient(None)
                self._inherited.end(graceful=True)
            self._manager.beat(now_ns, self._status)
            try:
                self._look_after(now_ns)
            except Exception:
                # A fault of ours must not leave workers and backends unwatched.
                log.critical("workers and backends cannot be looked after", exc_info=True)
                await asyncio.sleep(AGAIN_S)
            await asyncio.sleep(BEAT_S)

    def _look_after(self, now_ns: int) -> None:
        self.fleet.look_after(now_ns)
        for backends in self.backends:
            backends.monitor.tick(now_ns)
            backends.let_go()

    def _status(self) -> str:
        """One line for the service manager."""
        flows = sum(int(Reader(region).counters()[ROW["flows"]].sum()) for region in self.regions)
        working = len(self.fleet.workers)
        return f"{working} of {self.config.workers} workers, {flows} flows in progress"

    # -- the end

    def _stop(self, number: signal.Signals) -> None:
        """TERM and INT end flows at once, QUIT lets them finish; a second signal ends them too."""
        graceful = number == signal.SIGQUIT and not self._stopping.is_set()
        self._manager.tell(STOPPING=1)
        log.info("%s: stopping%s", number.name, ", flows may finish" if graceful else "")
        self._stopping.set()
        if self._fleet is not None:
            # Refuse new connections: what would still queue here nobody would ever accept.
            self._listening.release(None)
        for fleet in self._fleets():
            fleet.end(graceful)
        self._inherited.end(graceful)
