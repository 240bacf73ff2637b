"""The runtime API's routes: which request needs which level, and what is done for it.

Lives here: the table, which the OpenAPI description is made of too, and the handlers. Never here:
HTTP's details (`lbd.api.application`), what is told (`lbd.api.report`), what a wish means for the
configuration (`lbd.api.edits`).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic_ns
from typing import Any, Final, Protocol

from pydantic import BaseModel

from config.changes import Change
from config.schema import Config, Service
from lbd.api import edits, models, report
from lbd.api.peer import Level
from lbd.backends import Backends
from lbd.fleet import Fleet
from lbd.peers.talk import Talk
from lbd.version import version
from shm import layout as lo
from shm.region import Region

FLOWS: Final = 100
MOST_FLOWS: Final = 10_000
_ORDERS: Final = {"pause": lo.AGENT_PAUSE, "resume": lo.AGENT_RUN, "shadow": lo.AGENT_SHADOW}


class Daemon(Protocol):
    """What the API needs of the supervisor."""

    path: str
    started_ns: int

    @property
    def config(self) -> Config: ...
    @property
    def file_config(self) -> Config: ...
    @property
    def fleet(self) -> Fleet: ...
    @property
    def regions(self) -> list[Region]: ...
    @property
    def backends(self) -> list[Backends]: ...
    @property
    def restarts_total(self) -> int: ...
    @property
    def changes(self) -> list[Change]: ...
    @property
    def draining_workers(self) -> int: ...
    @property
    def peers(self) -> Talk | None: ...
    async def edit(self, edit: Callable[[Config], Config]) -> list[Change]: ...
    async def reload(self) -> list[Change]: ...


@dataclass(frozen=True)
class Asked:
    """One request: who asks, the names in its path, its query, its body if the route has one."""

    daemon: Daemon
    level: Level
    names: Mapping[str, str]
    query: Mapping[str, str]
    wish: Any

    @property
    def service(self) -> Service:
        return self.daemon.config.services[self._index]

    @property
    def region(self) -> Region:
        return self.daemon.regions[self._index]

    @property
    def backends(self) -> Backends:
        return self.daemon.backends[self._index]

    @property
    def _index(self) -> int:
        name = self.names["service"]
        for index, service in enumerate(self.daemon.config.services):
            if service.name == name:
                return index
        raise edits.UnknownError(f"there is no service {name}")


Handler = Callable[[Asked], Awaitable[BaseModel | dict[str, Any]]]


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    level: Level
    summary: str
    handler: Handler
    answer: type[BaseModel] | None
    wish: type[BaseModel] | None = None
    query: tuple[str, ...] = ()


async def _status(asked: Asked) -> models.Status:
    daemon, now_ns = asked.daemon, monotonic_ns()
    pids = {number: worker.pid for number, worker in daemon.fleet.workers.items()}
    pairs = zip(daemon.config.services, daemon.regions, strict=True)
    return models.Status(
        version=version(),
        pid=os.getpid(),
        uptime_s=(now_ns - daemon.started_ns) / 1e9,
        config=daemon.path,
        level="operate" if asked.level is Level.OPERATE else "read",
        workers=report.workers(daemon.regions, pids, now_ns),
        worker_restarts_total=daemon.restarts_total,
        draining_workers=daemon.draining_workers,
        changes=len(daemon.changes),
        services=[report.service(config, region, now_ns) for config, region in pairs],
    )


async def _peers(asked: Asked) -> models.PeersStatus:
    return report.peers(asked.daemon.peers, monotonic_ns())


async def _config(asked: Asked) -> dict[str, Any]:
    return asked.daemon.config.model_dump(mode="json")


async def _changes(asked: Asked) -> models.Changes:
    return report.changes(asked.daemon.changes)


async def _reload(asked: Asked) -> models.Changes:
    return report.changes(await asked.daemon.reload())


async def _backends(asked: Asked) -> models.Backends:
    daemon = asked.daemon
    rows = report.backends(asked.service, daemon.file_config, asked.region, monotonic_ns())
    return models.Backends(backends=rows)


async def _flows(asked: Asked) -> models.Flows:
    text = asked.query.get("limit", str(FLOWS))
    if not text.isdecimal() or not 1 <= int(text) <= MOST_FLOWS:
        raise edits.EditError(f"limit: found {text!r}, expected 1 to {MOST_FLOWS}")
    order = {"order": "flows", "service": asked.service.name, "limit": int(text)}
    answers = {n: answer["answer"] for n, answer in (await asked.daemon.fleet.ask(order)).items()}
    flows = [
        models.Flow(worker=number, **flow)
        for number, answer in answers.items()
        for flow in answer["flows"]
    ]
    oldest = sorted(flows, key=lambda flow: -flow.age_s)[: int(text)]
    return models.Flows(open=sum(a["open"] for a in answers.values()), flows=oldest)


async def _explain(asked: Asked) -> models.Explanations:
    answers = await asked.daemon.fleet.ask({"order": "explain", "service": asked.service.name})
    return models.Explanations(
        workers=[
            models.Explanation(worker=number, **answer["answer"])
            for number, answer in answers.items()
        ]
    )


async def _set_service(asked: Asked) -> models.Changes:
    values = asked.wish.model_dump(exclude_unset=True)
    name = asked.service.name
    edit = partial(edits.set_service, service=name, values=values)
    return report.changes(await asked.daemon.edit(edit))


async def _set_backend(asked: Asked) -> models.Changes:
    values = asked.wish.model_dump(exclude_unset=True)
    deadline_s = values.pop("deadline_s", None)
    if values.get("max_connections") == 0:
        values["max_connections"] = None
    name = asked.names["backend"]
    edit = partial(edits.set_backend, service=asked.service.name, backend=name, values=values)
    done = await asked.daemon.edit(edit)
    if deadline_s is not None and values.get("state") in ("drain", "maint"):
        asked.backends.monitor.order(name, values["state"], monotonic_ns(), deadline_s)
    return report.changes(done)


async def _add_backend(asked: Asked) -> models.Changes:
    values = asked.wish.model_dump()
    edit = partial(edits.add_backend, service=asked.service.name, values=values)
    return report.changes(await asked.daemon.edit(edit))


async def _remove_backend(asked: Asked) -> models.Changes:
    name = asked.names["backend"]
    edit = partial(edits.remove_backend, service=asked.service.name, backend=name)
    return report.changes(await asked.daemon.edit(edit))


async def _agent(asked: Asked) -> models.ServiceStatus:
    asked.region.order_agent(_ORDERS[asked.wish.order])
    return report.service(asked.service, asked.region, monotonic_ns())


_SERVICE: Final = "/v1/services/{service}"
_BACKEND: Final = f"{_SERVICE}/backends/{{backend}}"
ROUTES: Final = (
    Route("GET", "/v1/status", Level.READ, "The daemon at a glance.", _status, models.Status),
    Route("GET", "/v1/peers", Level.READ, "The other balancers.", _peers, models.PeersStatus),
    Route("GET", "/v1/config", Level.READ, "The configuration in force.", _config, None),
    Route(
        "GET",
        "/v1/changes",
        Level.READ,
        "What was changed at run time, against the file.",
        _changes,
        models.Changes,
    ),
    Route(
        "POST",
        "/v1/reload",
        Level.OPERATE,
        "Take the file into force; run-time changes are undone.",
        _reload,
        models.Changes,
    ),
    Route(
        "PATCH",
        _SERVICE,
        Level.OPERATE,
        "Change a service.",
        _set_service,
        models.Changes,
        models.ServiceWish,
    ),
    Route(
        "GET",
        f"{_SERVICE}/backends",
        Level.READ,
        "The backends of a service.",
        _backends,
        models.Backends,
    ),
    Route(
        "POST",
        f"{_SERVICE}/backends",
        Level.OPERATE,
        "Add a backend.",
        _add_backend,
        models.Changes,
        models.NewBackend,
    ),
    Route(
        "PATCH",
        _BACKEND,
        Level.OPERATE,
        "Change a backend.",
        _set_backend,
        models.Changes,
        models.BackendWish,
    ),
    Route(
        "DELETE",
        _BACKEND,
        Level.OPERATE,
        "Remove a backend; its flows may finish for the service's drain_s.",
        _remove_backend,
        models.Changes,
    ),
    Route(
        "GET",
        f"{_SERVICE}/flows",
        Level.READ,
        "The oldest open flows of a service.",
        _flows,
        models.Flows,
        query=("limit",),
    ),
    Route(
        "GET",
        f"{_SERVICE}/explain",
        Level.READ,
        "Why each worker's last choice fell as it did.",
        _explain,
        models.Explanations,
    ),
    Route(
        "POST",
        f"{_SERVICE}/agent",
        Level.OPERATE,
        "Pause the agent, let it only watch, or act as it was configured.",
        _agent,
        models.ServiceStatus,
        models.AgentWish,
    ),
)
