"""Live runs that were made before: a series may be stopped, and goes on where it was.

Lives here: the files, one a run, and what makes two runs the same. Never here: simulated runs,
which are cheap and always made anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from testbed.faithful.live import LiveRun, Overhead
from testbed.faithful.setting import Setting
from testbed.faithful.twin import rule_name
from testbed.load.result import Result
from testbed.sim.league.content import rule_digest, source_digest
from testbed.stack import ServiceSpec

_PROCESSES = ("lbd.__main__", "testbed.server.command", "testbed.load.command")
"""Their sources, with all of ours that they import, are part of what a run depends on."""


class Kept:
    """The live runs of a setting in a folder."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self._folder = folder
        self._setting = setting

    def get(self, method: ServiceSpec, number: int) -> LiveRun | None:
        """The run of that round; None if there is none, or only one of something else."""
        path = self._path(method, number)
        if not path.exists():
            return None
        result = Result.load(path)
        about = result.about
        if about["asked"] != self._asked(method):
            return None
        return LiveRun(result, Overhead(**about["overhead"]), about["busy"])

    def put(self, method: ServiceSpec, number: int, lived: LiveRun) -> None:
        """On disk when it returns, whole or not at all."""
        about = {
            "asked": self._asked(method),
            "overhead": asdict(lived.overhead),
            "busy": lived.busy,
        }
        path = self._path(method, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        replace(lived.result, about=about).save(partial)
        partial.replace(path)

    def _path(self, method: ServiceSpec, number: int) -> Path:
        return self._folder / f"{method.name}-{number}.npz"

    def _asked(self, method: ServiceSpec) -> str:
        setting = asdict(self._setting)
        # How many others are run beside it does not matter.
        del setting["methods"], setting["rounds"]
        sources = (*_PROCESSES, "agent.__main__") if method.agent else _PROCESSES
        content = [setting, asdict(method), rule_digest(rule_name(method)), source_digest(*sources)]
        return json.dumps(content, sort_keys=True)
