"""Reading shared memory against asking servers: MPG figure 11.

Lives here: the measurement, with lbd and servers running, and its table.
Never here: what is read (`shm`, `agent.observe`) or asked (`asking`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from agent.observe import observe
from shm.reader import Reader
from shm.region import Region
from testbed.experiments import methods, plots
from testbed.experiments.asking import Asker
from testbed.experiments.page import Section
from testbed.experiments.place import Place
from testbed.experiments.round import (
    FOLDER,
    SERVICE,
    backends_of,
    clear,
    entries_of,
    sensors_of,
)
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import Ground, Progress, cases_of, size_of
from testbed.experiments.store import Kept, Run, Store
from testbed.processes import Children
from testbed.sim.league.summary import Table

_TIMES = 2000

_NOTE = (
    "Microseconds until everything about all servers is known, one after another where servers are "
    "asked. The paper: its median from shared memory is 94 us below the quickest probe of a "
    "virtual machine or container, one server and without anything else to do."
)


def play(
    experiment: Experiment, name: str, form: Form, store: Store, ground: Ground
) -> Iterator[Progress]:
    """A run a repetition and case; nothing is sent but the questions."""
    repetitions = size_of(experiment, form).repetitions
    for label, case in cases_of(experiment, form).items():
        topology = ground.topology(case.topology or experiment.topology, case.site)
        for number in range(repetitions):
            content = {"experiment": name, "ground": ground.kind, "topology": topology.name}
            run = Run(label, "sed", number, content)
            kept = store.has(run)
            fresh = kept is None
            if kept is None:
                kept = store.put(run, {"reading": _measure(ground.open(topology))}, {})
            yield Progress(kept, fresh, repetitions - number - 1)


def _measure(lab: Any) -> pl.DataFrame:
    lab.reset()
    clear()
    with TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-") as folder, Children() as children:
        sensors = sensors_of(lab, children)
        host, port = entries_of(lab)[0]
        tag = f"{SERVICE}{secrets.token_hex(3)}"
        place = Place(tag, lab.balancers[0].popen, host, port, Path(folder))
        methods.start("sed", place, backends_of(lab, sensors), children).wait()
        region = Region.attach(tag)
        askers = [Asker(*address) for address in sensors.values()]
        reader = Reader(region)

        def measure() -> pl.DataFrame:
            return pl.concat(
                [
                    _time("shared memory", lambda: reader.snapshot(time.monotonic_ns())),
                    _time(
                        "shared memory, and every feature of it",
                        lambda: observe(reader.snapshot(time.monotonic_ns()), None, None),
                    ),
                    _time("one server, connection kept", askers[0].ask),
                    _time("one server, connecting", lambda: _anew(askers[0])),
                    _time("all servers, connections kept", lambda: [a.ask() for a in askers]),
                ]
            )

        try:
            # Where the balancer is: asking goes over its network.
            found: pl.DataFrame = lab.balancers[0].call(measure)
            return found
        finally:
            for asker in askers:
                asker.close()
            region.close()


def _anew(asker: Asker) -> None:
    asker.close()
    asker.ask()


def _time(name: str, work: Callable[[], object]) -> pl.DataFrame:
    took_us = np.empty(_TIMES)
    for index in range(_TIMES):
        start = time.perf_counter_ns()
        work()
        took_us[index] = (time.perf_counter_ns() - start) / 1e3
    return pl.DataFrame({"way": [name] * _TIMES, "us": took_us})


def sections(
    experiment: Experiment, name: str, form: Form, runs: Sequence[Kept], folder: Path
) -> list[Section]:
    """A row a way."""
    found = pl.concat([kept.table("reading") for kept in runs])
    lines = []
    series = {}
    for (way,), of in found.group_by(["way"], maintain_order=True):
        cells = np.percentile(of["us"].to_numpy(), (10, 50, 90, 99)).tolist()
        lines.append((str(way), *(f"{cell:.0f}" for cell in cells)))
        series[str(way)] = of["us"].clip(upper_bound=cells[-1]).to_list()
    columns = ("way", "p10", "median", "p90", "p99")
    picture = plots.save(plots.cdf(series, "us"), folder / f"{name}.png")
    table = Table("Reading and asking", _NOTE, columns, tuple(lines))
    return [Section("Feature collection", "", [table], [picture])]
