"""All runs of an experiment: case by case, repetition by repetition, every method in turn.

Lives here: the order of runs, pairing, resuming. Never here: what happens in one (`round`).
Within a repetition all methods get the same requests; a case's servers stay for all its runs.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from testbed.experiments import sites
from testbed.experiments.demand import Demand, demand, trace_file
from testbed.experiments.round import Played, Spec, play
from testbed.experiments.schema import Case, Day, Experiment, Form, Loop, Size, Trace
from testbed.experiments.store import Kept, Run, Store
from testbed.lab.topology import Topology

ATTEMPTS = 2
"""Of a run that is not to be believed. The last one counts if none is, and says so."""

_SAMPLE_S = 1000.0
_SAMPLE_PER_S = 100.0


class UnfitError(Exception):
    """The experiment needs what this ground does not have; the message says what."""


class Ground:
    """Where it is run; a context manager. The last lab stays open until another one is asked for.

    topology: of a name, its servers having a site. capacity: requests a second that the servers can
    do of what is asked; it may have to measure it first.
    """

    def __init__(
        self,
        kind: str,
        topology: Callable[[str, str], Topology],
        lab: Callable[[Topology], AbstractContextManager[Any]],
        capacity: Callable[[Topology, str, Demand], float],
    ) -> None:
        self.kind = kind
        self.topology = topology
        self.capacity = capacity
        self._lab = lab
        self._open: tuple[Topology, Any] | None = None
        self._exit = ExitStack()

    def open(self, topology: Topology) -> Any:
        """Its lab. Raises LabError or ChildError."""
        if self._open is None or self._open[0] != topology:
            self.close()
            self._open = (topology, self._exit.enter_context(self._lab(topology)))
        return self._open[1]

    def close(self) -> None:
        """Remove the lab, if one is open."""
        self._open = None
        self._exit.close()

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Progress:
    """After each run. fresh: it was played just now. left: how many are to come."""

    kept: Kept
    fresh: bool
    left: int


def size_of(experiment: Experiment, form: Form) -> Size:
    """How much of it."""
    return experiment.short if form == "short" else experiment.full


def cases_of(experiment: Experiment, form: Form) -> dict[str, Case]:
    """Those of that form."""
    chosen = size_of(experiment, form).cases or tuple(experiment.cases)
    return {name: experiment.cases[name] for name in chosen}


def methods_of(experiment: Experiment, form: Form) -> tuple[str, ...]:
    """Those of that form."""
    return size_of(experiment, form).methods or experiment.methods


def rate_per_s(case: Case, topology: Topology, ground: Ground) -> float:
    """The case's requests a second; of a day that of hour 0."""
    traffic = case.traffic
    if traffic.rate_per_s is not None:
        return traffic.rate_per_s
    assert traffic.load is not None
    # What the capacity is asked for is the kind of request, not its times: all hours have one mix.
    mix = traffic
    if isinstance(traffic, Day):
        mix = traffic.model_copy(update={"from_h": 0.0, "to_h": None})
    sample = demand(mix, _SAMPLE_PER_S, _SAMPLE_S, 0)
    return traffic.load * ground.capacity(topology, case.site, sample)


def play_all(
    experiment: Experiment, name: str, form: Form, store: Store, ground: Ground
) -> Iterator[Progress]:
    """Every run that is not there yet; those that are come first in their case.

    Raises UnfitError, TraceError, or one of `round.RUN_ERRORS`. What was played before stays.
    """
    size, methods = size_of(experiment, form), methods_of(experiment, form)
    cases = cases_of(experiment, form)
    left = len(cases) * size.repetitions * len(methods)
    for label, case in cases.items():
        if ground.kind == "loopback" and any(event.burn for event in case.events):
            raise UnfitError(f"{case.title}: burners need servers with a CPU of their own")
        topology = ground.topology(case.topology or experiment.topology, case.site)
        rate = rate_per_s(case, topology, ground)
        runs = [
            _run(experiment, name, label, case, topology, ground.kind, size, rate, method, number)
            for number in range(size.repetitions)
            for method in _turned(methods, label, number)
        ]
        missing = []
        for run in runs:
            kept = store.has(run)
            if kept is None:
                missing.append(run)
            else:
                left -= 1
                yield Progress(kept, False, left)
        for run in missing:
            left -= 1
            lab = ground.open(topology)
            kept = _play(lab, experiment, case, size, rate, run, store, topology)
            yield Progress(kept, True, left)


def _turned(methods: tuple[str, ...], case: str, number: int) -> tuple[str, ...]:
    """Another order each time, every second one backwards: what drifts meanwhile cancels out.

    A case begins anywhere among them, so that nobody is always the first.
    """
    turn = (zlib.crc32(case.encode()) + number // 2) % len(methods)
    turned = methods[turn:] + methods[:turn]
    return turned[::-1] if number % 2 else turned


def _run(
    experiment: Experiment,
    name: str,
    label: str,
    case: Case,
    topology: Topology,
    ground: str,
    size: Size,
    rate: float,
    method: str,
    number: int,
) -> Run:
    content = {
        "experiment": name,
        "ground": ground,
        "topology": topology.model_dump(mode="json"),
        "traffic": case.traffic.model_dump(mode="json"),
        "trace": _digest(case.traffic),
        "site": case.site,
        "events": [event.model_dump(mode="json") for event in case.events],
        "rate_per_s": rate,
        "run_s": size.run_s,
        "settle_s": size.settle_s,
        "seed": experiment.seed + number,
        "timeout_s": experiment.timeout_s,
        "truth_hz": experiment.truth_hz,
        "probes_hz": list(case.probes_hz),
    }
    return Run(label, method, number, content)


def _digest(traffic: Loop | Trace | Day) -> str:
    """Of a trace's file; empty for other traffic."""
    if not isinstance(traffic, Trace):
        return ""
    return hashlib.sha256(trace_file(traffic).read_bytes()).hexdigest()


def _play(
    lab: Any,
    experiment: Experiment,
    case: Case,
    size: Size,
    rate: float,
    run: Run,
    store: Store,
    topology: Topology,
) -> Kept:
    asked = demand(case.traffic, rate, size.run_s, int(run.content["seed"]))
    spec = Spec(
        method=run.method,
        demand=asked,
        site=case.site,
        timeout_s=experiment.timeout_s,
        truth_hz=experiment.truth_hz,
        events=case.events,
        probes_hz=case.probes_hz,
    )
    attempts = 0
    while True:
        attempts += 1
        began_s = time.time()
        played = play(lab, spec)
        if not played.why_not or attempts == ATTEMPTS:
            break
    about = {
        "attempts": attempts,
        "began_s": began_s,
        "balancer_cpu_s": played.balancer_cpu_s,
        "client_cpu_s": played.client_cpu_s,
        "lag_p99_s": played.lag_p99_s,
        "during": asdict(played.host),
        **_load_of(played, case, size, topology),
        "why_not": list(played.why_not),
    }
    return store.put(run, played.tables, about)


def _load_of(played: Played, case: Case, size: Size, topology: Topology) -> dict[str, Any]:
    """What an answer cost the servers, and what load that makes of the requests that came.

    The load is arrivals times CPU time over what the servers had at first: where a request costs
    more than when the servers were calibrated, it is more than planned. None where it is not to be
    had: processes that only count use the servers' CPU, too; or nothing was answered.
    """
    requests = played.tables["requests"]
    answered = requests.filter(requests["outcome"] == "ok")
    if answered.is_empty() or any(event.burn for event in case.events):
        return {"servers_us_per_answer": None, "load": None}
    each_s = played.servers_cpu_s / len(answered)
    cores = sum(server.cores for server in topology.servers)
    return {
        "servers_us_per_answer": each_s * 1e6,
        "load": len(requests) / size.run_s * each_s / cores,
    }


def embedded_capacity(topology: Topology, site: str, asked: Demand) -> float:
    """Requests a second that servers can do which only act as if."""
    return sum(s.cores for s in topology.servers) / sites.mean_work_s(asked, site)
