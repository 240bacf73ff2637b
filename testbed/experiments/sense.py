"""What an experiment's keys say of each other, and of files besides its own.

Lives here: methods named twice, files, topologies and servers that are not there, events that never
happen, sites without the pages asked for. Never here: the keys (`schema`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from config.problem import ConfigError, Loc
from testbed.experiments.demand import trace_file
from testbed.experiments.schema import Case, Day, Experiment, Trace
from testbed.lab.topology import Topology, find, load_topology

Found = tuple[Loc, str]


def wrong(experiment: Experiment) -> list[Found]:
    """Each place and what is wrong there; reads the files that the experiment names."""
    found = [*_methods(experiment.methods, ("methods",))]
    forms = {"short": experiment.short, "full": experiment.full}
    for form, size in forms.items():
        found += _methods(size.methods, (form, "methods"))
    common = _topology(experiment.topology, ("topology",), found)
    for name, case in experiment.cases.items():
        topology = common
        if case.topology is not None:
            topology = _topology(case.topology, ("cases", name, "topology"), found)
        longest_s = [s.run_s for s in forms.values() if name in (s.cases or experiment.cases)]
        found += _case(case, ("cases", name), topology, max(longest_s, default=0.0))
    return found


def _methods(methods: Sequence[str], loc: Loc) -> Iterator[Found]:
    for index, method in enumerate(methods):
        if method in methods[:index]:
            yield (*loc, index), f"{method!r} is there already"
        parameter = method.partition(":")[2]
        if parameter and not Path(parameter).exists():
            yield (*loc, index), f"there is no {parameter}"


def _topology(name: str, loc: Loc, found: list[Found]) -> Topology | None:
    try:
        return load_topology(find(name))
    except ConfigError as error:
        found.append((loc, str(error)))
        return None


def _case(case: Case, loc: Loc, topology: Topology | None, run_s: float) -> Iterator[Found]:
    traffic = case.traffic
    if isinstance(traffic, Day) and traffic.wiki > 0 and not case.site.startswith("wiki-"):
        yield (*loc, "site"), f"a day has wiki pages, which a {case.site} site has not"
    if isinstance(traffic, Trace) and not trace_file(traffic).is_file():
        yield (*loc, "traffic", "file"), f"there is no file {traffic.file}"
    known = set()
    if topology is not None:
        known = {name for server in topology.servers for name in (server.name, server.group)}
    for number, event in enumerate(case.events):
        here = (*loc, "events", number)
        if run_s and event.at_s >= run_s:
            yield (*here, "at_s"), f"its runs end after {run_s:g} s"
        for index, name in enumerate(event.servers):
            if known and name not in known:
                some = ", ".join(sorted(known))
                yield (*here, "servers", index), f"no server or group {name!r}; there are {some}"
