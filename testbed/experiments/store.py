"""What is kept of runs: a folder a run, Parquet files and a record of how it came about.

Lives here: names, files, and which runs are there already. Never here: running, figures.
A run is there when its `run.json` is: that file is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from testbed.experiments import methods, programs
from testbed.sim.league.content import parameters_digest, source_digest

_RECORD = "run.json"

_EVERY = ("testbed.experiments.round", "testbed.load.generator")
_GROUNDS = {
    "loopback": ("testbed.lab.loopback", "testbed.server.command"),
    "namespaces": ("testbed.lab.namespaces", "testbed.lab.wiki"),
}
"""Modules that every run is made with, and those of its ground that no other module imports."""


@dataclass(frozen=True)
class Run:
    """Which one it is, and what must be the same for it to be it: `content`."""

    case: str
    method: str
    repetition: int
    content: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Of all that its figures depend on: traffic, our code, parameters, versions of programs.

        64 hex digits.
        """
        modules = [*_EVERY, *methods.modules(self.method)]
        modules += _GROUNDS.get(str(self.content.get("ground")), ())
        if self.content.get("probes_hz"):
            modules += ["testbed.experiments.probing", "testbed.experiments.sensor"]
        sources: list[Any] = [source_digest(*modules), programs.versions()]
        if methods.learned(self.method):
            sources.append(parameters_digest(self.method))
        parts = [self.case, self.method, self.repetition, dict(self.content), sources]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of its folder."""
        method = self.method.replace("/", "_").replace(":", "_")
        return f"{self.case}--{method}--{self.repetition}"


@dataclass(frozen=True)
class Kept:
    """A run that was played; its tables are read when they are asked for."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def case(self) -> str:
        return str(self.record["case"])

    @property
    def method(self) -> str:
        return str(self.record["method"])

    @property
    def repetition(self) -> int:
        return int(self.record["repetition"])

    @property
    def run(self) -> Run:
        """Which one it is; its key is that of today."""
        return Run(self.case, self.method, self.repetition, self.record["content"])

    def requests(self) -> pl.DataFrame:
        """See `round.Played`."""
        return self.table("requests")

    def truth(self) -> pl.DataFrame:
        """See `truth.TRUTH`."""
        return self.table("truth")

    def seen(self) -> pl.DataFrame:
        """See `truth.SEEN`."""
        return self.table("seen")

    def table(self, name: str) -> pl.DataFrame:
        """One that was kept; raises FileNotFoundError for others."""
        return pl.read_parquet(self.folder / f"{name}.parquet")


class Store:
    """The runs of one experiment in one form, below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs = folder / "runs"

    def has(self, run: Run) -> Kept | None:
        """That run, if it was played as it would be now."""
        found = self._read(self._runs / run.name)
        return found if found is not None and found.record.get("key") == run.key else None

    def put(self, run: Run, tables: Mapping[str, pl.DataFrame], about: Mapping[str, Any]) -> Kept:
        """Keep it, instead of what was there under its name."""
        folder = self._runs / run.name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for name, table in tables.items():
            table.write_parquet(folder / f"{name}.parquet")
        record = {
            "key": run.key,
            "case": run.case,
            "method": run.method,
            "repetition": run.repetition,
            "content": dict(run.content),
            "host": host(),
            **about,
        }
        text = json.dumps(record, indent=1)
        (folder / "run.json.new").write_text(text)
        os.replace(folder / "run.json.new", folder / _RECORD)
        return Kept(folder, json.loads(text))

    def runs(self) -> Iterator[Kept]:
        """All that are there, by name."""
        for folder in sorted(self._runs.glob("*")):
            kept = self._read(folder)
            if kept is not None:
                yield kept

    def _read(self, folder: Path) -> Kept | None:
        path = folder / _RECORD
        if not path.is_file():
            return None
        return Kept(folder, json.loads(path.read_text()))


def host() -> dict[str, Any]:
    """What figures are to be read against."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "lbd": version("lbd"),
        "commit": programs.commit(),
        "programs": programs.versions(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
