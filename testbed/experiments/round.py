"""One run: a method in the balancers' places, one plan of requests, and all that is seen of it.

Lives here: the order of things within a run. Never here: which runs (`season`), figures.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from shm import segment
from shm.errors import RegionAbsent, RegionBusy, RegionError
from testbed.experiments import methods
from testbed.experiments.asking import AskError
from testbed.experiments.demand import Demand, Page
from testbed.experiments.host import Host, between, read
from testbed.experiments.place import READY_S, Backend, Place, Standing
from testbed.experiments.schema import Event
from testbed.experiments.scoreboard import ScoreboardError
from testbed.experiments.sites import for_apache, for_embedded
from testbed.experiments.truth import Eye, Truth, eyes
from testbed.lab.driver import LabError
from testbed.lab.loopback import LoopbackLab
from testbed.load.command import STARTED
from testbed.load.generator import spread_over
from testbed.load.result import Outcome, Result
from testbed.processes import Child, ChildError, Children

RUN_ERRORS = (
    ChildError,
    LabError,
    ScoreboardError,
    AskError,
    RegionError,
    subprocess.SubprocessError,
    OSError,
)
"""What may fail of a run, besides mistakes of ours: processes, machines, files, memory."""

GRACE_S = 20.0
_BURNER = [sys.executable, "-c", "while True: pass"]
_IDLE_S = 120.0
_LOOK_S = 0.05
_REQUESTS_MIN = 2
FOLDER = "lbd-round-"
SERVICE = "round-"


@dataclass(frozen=True)
class Spec:
    """site: what wiki pages are served from. events: what befalls servers, by the plan's time.

    probes_hz: how often servers are asked how busy they are, by somebody who does nothing with it.
    """

    method: str
    demand: Demand
    site: str
    timeout_s: float
    truth_hz: float
    events: Sequence[Event] = ()
    probes_hz: Sequence[float] = ()


@dataclass(frozen=True)
class Played:
    """tables: `requests`, one row each, times in seconds from the plan's start; `truth` and `seen`
    (see `truth`); `probes` (see `probing`) where there are any.

    balancer_cpu_s: of all that stood in the balancers' places. lag_p99_s: of the load generator.
    host: what the host did meanwhile. servers_cpu_s: of all servers, what they act as if included.
    why_not: reasons not to believe it, empty if there is none.
    """

    tables: Mapping[str, pl.DataFrame]
    balancer_cpu_s: float
    client_cpu_s: float
    lag_p99_s: float
    host: Host
    servers_cpu_s: float
    why_not: tuple[str, ...]


def play(lab: Any, spec: Spec) -> Played:
    """Run it, on a lab that it first resets: one that was killed may have left anything.

    Raises one of RUN_ERRORS.
    """
    lab.reset()
    clear()
    with TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-") as name, Children() as children:
        folder = Path(name)
        asked = methods.needs_sensors(spec.method) or bool(spec.probes_hz)
        sensors = sensors_of(lab, children) if asked else {}
        backends = backends_of(lab, sensors)
        spread = methods.router_weights(spec.method, backends)
        standing = _stand(lab, spec.method, backends, folder, children) if spread is None else []
        looks = eyes(lab)
        _until_idle(looks)
        try:
            with _spread(lab, spread) as entries:
                played = _load(lab, spec, standing, looks, sensors, entries, folder, children)
        finally:
            if spec.events:
                _give_back(lab)
        # Who waited for an answer that nobody wants any more is let go.
        stopping = [child for place in standing for child in place.children]
        for child in stopping:
            child.send_signal(signal.SIGTERM)
        for child in stopping:
            child.stop()
        try:
            _until_idle(looks)
        finally:
            for eye in looks.values():
                eye.close()
    return played


def clear() -> None:
    """Remove what killed runs have left: their folders and shared memory, never a live one's."""
    for service in segment.present():
        if service.startswith(SERVICE):
            with suppress(RegionAbsent, RegionBusy):
                segment.remove_dead(service)
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        pid = folder.name.removeprefix(FOLDER).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder)


def backends_of(lab: Any, sensors: Mapping[str, tuple[str, int]]) -> list[Backend]:
    specs = {spec.name: spec for spec in lab.topology.servers}
    return [
        Backend(name, server.address, server.port, specs[name].cores, sensors.get(name))
        for name, server in lab.servers.items()
    ]


def sensors_of(lab: Any, children: Children) -> Mapping[str, tuple[str, int]]:
    """Where each server tells how busy it is."""
    if isinstance(lab, LoopbackLab):
        return {name: (server.address, server.port) for name, server in lab.servers.items()}
    found = {}
    started = {}
    for name, server in lab.servers.items():
        argv = [sys.executable, "-m", "testbed.experiments.sensor"]
        argv += [str(server.scoreboard()), server.address, "0"]
        started[name] = children.start(f"sensor {name}", argv, popen=server.popen)
    for name, child in started.items():
        port = re.search(r":(\d+)\b", child.wait_line("ready", READY_S))
        assert port is not None
        found[name] = (lab.servers[name].address, int(port.group(1)))
    return found


def _stand(
    lab: Any, method: str, backends: Sequence[Backend], folder: Path, children: Children
) -> list[Standing]:
    suffix = secrets.token_hex(3)
    entries = entries_of(lab)
    standing = []
    for number, machine in enumerate(lab.balancers):
        # Behind an edge router all balancers have the one address that it spreads.
        host, port = entries[min(number, len(entries) - 1)]
        place = Place(f"{SERVICE}{suffix}-{number}", machine.popen, host, port, folder)
        standing.append(methods.start(method, place, backends, children))
    for one in standing:
        one.wait()
    return standing


def _load(
    lab: Any,
    spec: Spec,
    standing: Sequence[Standing],
    looks: Mapping[str, Eye],
    sensors: Mapping[str, tuple[str, int]],
    entries: Sequence[tuple[str, int]],
    folder: Path,
    children: Children,
) -> Played:
    plan = (
        for_embedded(spec.demand, spec.site)
        if isinstance(lab, LoopbackLab)
        else for_apache(spec.demand)
    )
    trace, path = folder / "plan.tsv", folder / "run.npz"
    lines = (
        f"{at!r}\t{query}\n"
        for at, query in zip(plan.planned_s.tolist(), plan.queries, strict=True)
    )
    trace.write_text("time\tquery\n" + "".join(lines))
    if len(plan) < _REQUESTS_MIN:
        raise ChildError(f"the run has {len(plan)} requests, which is no load: make it longer")
    # A trace's first request comes one mean gap after its start.
    gap_s = (plan.planned_s[-1] - plan.planned_s[0]) / (len(plan) - 1)
    shift_s = float(plan.planned_s[0] - gap_s)
    argv = [sys.executable, "-m", "testbed", "load", "--json", "--save", str(path)]
    argv += ["--trace", str(trace), "--timeout", repr(spec.timeout_s), "--announce"]
    for host, port in entries:
        argv += ["--target", f"{host}:{port}"]
    cpu_before_s = sum(place.cpu_s() for place in standing)
    regions = [place.region for place in standing if place.region is not None]
    probes = folder / "probes.parquet"
    prober = _prober(lab, spec, sensors, probes, children)
    cores = {spec.name: spec.cores for spec in lab.topology.servers}
    with Truth(looks, regions, spec.truth_hz, cores) as truth:
        load = children.start("load", argv, popen=lab.client.popen)
        start_s = int(load.wait_line(STARTED, READY_S).split()[-1]) / 1e9 - shift_s
        before, servers_before_s = read(_ours_s(lab, children)), _servers_s(lab)
        deadline_s = start_s + plan.period_s + spec.timeout_s + GRACE_S
        waiting = sorted(spec.events, key=lambda event: event.at_s)
        while load.running():
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise ChildError(f"the load generator still runs {GRACE_S:g} s after its end")
            while waiting and now_s >= start_s + waiting[0].at_s:
                truth.cores.update(_befall(lab, waiting.pop(0), children))
            time.sleep(_LOOK_S)
        cpu_s = sum(place.cpu_s() for place in standing) - cpu_before_s
        meanwhile = between(before, read(_ours_s(lab, children)))
        servers_cpu_s = _servers_s(lab) - servers_before_s
    status = load.stop()
    if not path.exists():
        raise ChildError(f"the load generator ended with {status}: {load.output()[-3:]}")
    result = Result.load(path)
    tables = truth.frames(start_s)
    tables["requests"] = _requests(result, spec.demand, shift_s, len(entries))
    if prober is not None:
        prober.stop()
        tables["probes"] = pl.read_parquet(probes).with_columns(pl.col("at_s", "taken_s") - start_s)
    return Played(
        tables=tables,
        balancer_cpu_s=cpu_s,
        client_cpu_s=result.cpu_s,
        lag_p99_s=float(result.summary().lag.p99_s),
        host=meanwhile,
        servers_cpu_s=servers_cpu_s,
        why_not=result.why_not_believable() + meanwhile.why_not(),
    )


def _ours_s(lab: Any, children: Children) -> float:
    """CPU seconds so far of all that the run is made of. In a lab of machines all run on those."""
    started_s = children.cpu_s() if isinstance(lab, LoopbackLab) else 0.0
    return float(lab.cpu_s()) + started_s + time.process_time()


def _servers_s(lab: Any) -> float:
    return sum(server.cpu_ns() for server in lab.servers.values()) / 1e9


def _prober(
    lab: Any,
    spec: Spec,
    sensors: Mapping[str, tuple[str, int]],
    path: Path,
    children: Children,
) -> Child | None:
    """Who asks, on the first balancer's machine."""
    if not spec.probes_hz:
        return None
    argv = [sys.executable, "-m", "testbed.experiments.probing", str(path)]
    argv += [",".join(map(repr, spec.probes_hz))]
    argv += [f"{name}={host}:{port}" for name, (host, port) in sensors.items()]
    prober = children.start("prober", argv, popen=lab.balancers[0].popen)
    prober.wait_line("ready", READY_S)
    return prober


def _requests(result: Result, demand: Demand, shift_s: float, entries: int) -> pl.DataFrame:
    table = result.table
    columns: dict[str, Any] = {"planned_s": demand.planned_s}
    for name in ("handled", "sent", "first_byte", "done"):
        at_ns = table[f"{name}_ns"]
        columns[f"{name}_s"] = [at / 1e9 + shift_s if at >= 0 else None for at in at_ns.tolist()]
    columns["latency_s"] = (table["done_ns"] - table["planned_ns"]) / 1e9
    columns["bytes"] = table["bytes"]
    columns["outcome"] = [Outcome(value).label for value in table["outcome"].tolist()]
    columns["page"] = [Page(value).name.lower() for value in demand.page.tolist()]
    if entries > 1:
        columns["balancer"] = [spread_over(entries, index) for index in range(len(table))]
    return pl.DataFrame(columns)


@contextmanager
def _spread(lab: Any, weights: Mapping[str, int] | None) -> Iterator[list[tuple[str, int]]]:
    """Where clients connect: to the balancers, or by these weights to the servers themselves."""
    if weights is None:
        yield entries_of(lab)
    elif isinstance(lab, LoopbackLab):
        servers = lab.servers.values()
        yield [(s.address, s.port) for s in servers for _ in range(weights[s.name])]
    else:
        lab.route(list(lab.servers.values()), [weights[name] for name in lab.servers])
        try:
            yield entries_of(lab)
        finally:
            lab.route(lab.balancers)


def entries_of(lab: Any) -> list[tuple[str, int]]:
    """Where clients connect: behind an edge router there is one address."""
    return lab.entries if isinstance(lab, LoopbackLab) else [(lab.vip, lab.port)]


def _befall(lab: Any, event: Event, children: Children) -> dict[str, float]:
    """The shares of a core that servers have from now on, of those that it befalls."""
    changed = {}
    for spec in lab.topology.servers:
        if {spec.name, spec.group} & set(event.servers):
            server = lab.servers[spec.name]
            changed[spec.name] = spec.cores * (1 - event.take)
            server.set_cores(changed[spec.name])
            for _ in range(event.burn):
                children.start(f"burner on {spec.name}", _BURNER, popen=server.popen)
    return changed


def _give_back(lab: Any) -> None:
    for spec in lab.topology.servers:
        lab.servers[spec.name].set_cores(spec.cores)


def _until_idle(looks: Mapping[str, Eye]) -> None:
    """What one method has left in the queues is not the next one's. Raises LabError."""
    until_s = time.monotonic() + _IDLE_S
    while busy := [name for name, eye in looks.items() if eye.look().jobs]:
        if time.monotonic() > until_s:
            raise LabError(f"{', '.join(busy)}: still at work {_IDLE_S:g} s after the run")
        time.sleep(_LOOK_S)
