"""What the servers really do, beside what the balancers see of it, some times a second.

Lives here: the sampling and its thread. Never here: what is made of it (`figures`).
Apache's workers come from its scoreboard and its CPU from its cgroup, so that looking costs a
server nothing; servers that only act as if are asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from threading import Event, Thread
from types import TracebackType
from typing import Any, Protocol

import polars as pl

from shm.reader import Reader
from shm.region import Region
from shm.weights import newest_weights
from testbed.experiments.asking import Asker, Busy
from testbed.experiments.scoreboard import Scoreboard
from testbed.lab.loopback import LoopbackLab

TRUTH = {
    "at_s": pl.Float64,
    "server": pl.String,
    "busy": pl.Int64,
    "cpu_s": pl.Float64,
    "cores": pl.Float64,
}
"""cores: the server's share of a core at that moment."""

SEEN = {
    "at_s": pl.Float64,
    "balancer": pl.Int64,
    "server": pl.String,
    "flows": pl.Int64,
    "weight": pl.Float64,
    "written_ns": pl.Int64,
}


class Eye(Protocol):
    """Looks at one server."""

    def look(self) -> Busy:
        """Busy workers, and the CPU seconds used so far."""

    def close(self) -> None:
        """Look no more."""


class ScoreboardEye:
    """Of an Apache server of the lab."""

    def __init__(self, server: Any) -> None:
        self._board = Scoreboard(server.scoreboard())
        self._server = server

    def look(self) -> Busy:
        return Busy(self._board.busy(), self._server.cpu_ns() / 1e9, time.monotonic())

    def close(self) -> None:
        self._board.close()


class EmbeddedEye:
    """Of a `testbed.server`."""

    def __init__(self, server: Any) -> None:
        self._asker = Asker(server.address, server.port)
        self._cores = server.spec.cores

    def look(self) -> Busy:
        found = self._asker.ask()
        return Busy(found.jobs, found.cpu_s * self._cores, found.at_s)

    def close(self) -> None:
        self._asker.close()


def eyes(lab: Any) -> dict[str, Eye]:
    """One for each of the lab's servers."""
    kind = EmbeddedEye if isinstance(lab, LoopbackLab) else ScoreboardEye
    return {name: kind(server) for name, server in lab.servers.items()}


class Truth:
    """A context manager: samples while its block runs.

    hz: looks a second; one that comes late is not made up for. regions: of balancers, by number.
    cores: the servers' shares of a core; who changes one says so here.
    """

    def __init__(
        self,
        eyes: Mapping[str, Eye],
        regions: Sequence[str],
        hz: float,
        cores: Mapping[str, float],
    ) -> None:
        self.cores = dict(cores)
        self._eyes = eyes
        self._regions = [Region.attach(name) for name in regions]
        self._readers = [Reader(region) for region in self._regions]
        self._period_s = 1 / hz
        self._stop = Event()
        self._thread = Thread(target=self._run, name="truth", daemon=True)
        self._truth: list[tuple[Any, ...]] = []
        self._seen: list[tuple[Any, ...]] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Truth:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for region in self._regions:
            region.close()
        if self._error is not None and error is None:
            raise self._error

    def frames(self, start_s: float) -> dict[str, pl.DataFrame]:
        """`truth` and `seen`, see TRUTH and SEEN; after the block. at_s: after `start_s`."""
        truth = pl.DataFrame(self._truth, schema=TRUTH, orient="row")
        seen = pl.DataFrame(self._seen, schema=SEEN, orient="row")
        at_s = pl.col("at_s") - start_s
        return {"truth": truth.with_columns(at_s), "seen": seen.with_columns(at_s)}

    def _run(self) -> None:
        try:
            due_s = time.monotonic()
            while not self._stop.wait(max(0.0, due_s - time.monotonic())):
                self._look()
                due_s = max(due_s + self._period_s, time.monotonic())
        except Exception as error:  # handed over to the thread that waits for this one
            self._error = error

    def _look(self) -> None:
        for name, eye in self._eyes.items():
            found = eye.look()
            self._truth.append((found.at_s, name, found.jobs, found.cpu_s, self.cores[name]))
        for number, reader in enumerate(self._readers):
            region = self._regions[number]
            now_ns = time.monotonic_ns()
            snapshot = reader.snapshot(now_ns)
            given = newest_weights(region)
            written_ns = 0 if given is None else given.written_ns
            for slot, flows in zip(snapshot.slots.tolist(), snapshot.flows.tolist(), strict=True):
                entry = region.entry(slot)
                weight = entry.weight if given is None else float(given.weight[slot])
                self._seen.append((now_ns / 1e9, number, entry.name, flows, weight, written_ns))
