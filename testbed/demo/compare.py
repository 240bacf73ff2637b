"""Runs the comparison: the agent warms up, then every method gets the same arrivals in turn.

Lives here: the order of things and what is kept of them. Never here: display, plots.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.demo.scenario import AGENT, METHODS, Scenario
from testbed.load.result import Result
from testbed.processes import ChildError
from testbed.stack import ServiceSpec, Stack
from testbed.watch import View, Watch

CONFIGURED = "as configured"
CHANGED = "changed"

LOOK_S = 0.25
GRACE_S = 45.0


@dataclass(frozen=True)
class Run:
    """One method, one repetition of one part: 'as configured' or 'changed'."""

    part: str
    method: str
    repetition: int
    result: Result
    share: NDArray[np.float64]


@dataclass
class Comparison:
    """All that was measured. weights: (seconds since the start, (N,) weights) of the agent.

    changed_s: seconds since the start at which the speeds changed, None before.
    """

    scenario: Scenario
    runs: list[Run] = field(default_factory=list)
    weights: list[tuple[float, NDArray[np.float64]]] = field(default_factory=list)
    changed_s: float | None = None

    def of(self, method: str, part: str = CONFIGURED) -> list[Run]:
        return [run for run in self.runs if (run.method, run.part) == (method, part)]


OnLook = Callable[[str, str, View], None]


class Comparer:
    """`on_look(phase, method, view)` is called a few times a second, `on_run(run)` after each."""

    def __init__(
        self, stack: Stack, scenario: Scenario, on_look: OnLook, on_run: Callable[[Run], None]
    ) -> None:
        self._stack = stack
        self._scenario = scenario
        self._on_look = on_look
        self._on_run = on_run
        self._folder = stack.config.parent
        self._start_s = time.monotonic()
        self.comparison = Comparison(scenario)

    def run(self) -> Comparison:
        """Raises ChildError where a process of the stack fails."""
        scenario = self._scenario
        agent = next(method for method in METHODS if method.agent)
        if scenario.warm_s > 0:
            self._load("warming up", agent, scenario.warm_s, seed=scenario.seed)
        for part, speeds in ((CONFIGURED, scenario.speeds), (CHANGED, scenario.changed)):
            if part == CHANGED:
                self.comparison.changed_s = time.monotonic() - self._start_s
                for name, speed in speeds.items():
                    self._stack.set_speed(name, speed)
            for repetition in range(scenario.repetitions):
                self._repeat(part, repetition)
        return self.comparison

    def _repeat(self, part: str, repetition: int) -> None:
        """Every method once, on the same arrivals."""
        scenario = self._scenario
        phase = f"{part}, {repetition + 1} of {scenario.repetitions}"
        # Another order each time: what the machine does meanwhile hits another method.
        turn = repetition % len(METHODS)
        for method in METHODS[turn:] + METHODS[:turn]:
            seed = scenario.seed + 1000 + repetition
            result, share = self._load(phase, method, scenario.run_s, seed)
            run = Run(part, method.name, repetition, result, share)
            self.comparison.runs.append(run)
            self._on_run(run)

    def _load(
        self, phase: str, method: ServiceSpec, duration_s: float, seed: int
    ) -> tuple[Result, NDArray[np.float64]]:
        scenario, stack = self._scenario, self._stack
        path = Path(self._folder) / "run.npz"
        argv = [sys.executable, "-m", "testbed", "load", "--json", "--save", str(path)]
        argv += ["--target", f"127.0.0.1:{stack.port[method.name]}"]
        argv += ["--rate", f"{scenario.rate_per_s:g}", "--duration", f"{duration_s:g}"]
        argv += ["--mean-ms", f"{scenario.mean_work_s * 1e3:g}", "--seed", str(seed)]
        watch = Watch(stack.region(method.name), method.agent)
        load = stack.children.start("load", argv)
        deadline_s = time.monotonic() + duration_s + GRACE_S
        while load.running():
            if time.monotonic() > deadline_s:
                raise ChildError(f"the load generator still runs {GRACE_S:g} s after its plan")
            self._look(phase, method.name, watch.look())
            time.sleep(LOOK_S)
        view = watch.look()
        self._look(phase, method.name, view)
        status = load.stop()
        if not path.exists():
            raise ChildError(f"the load generator ended with {status}: {load.output()[-3:]}")
        result = Result.load(path)
        path.unlink()
        return result, view.share

    def _look(self, phase: str, method: str, view: View) -> None:
        if method == AGENT:
            at_s = time.monotonic() - self._start_s
            self.comparison.weights.append((at_s, view.weight))
        self._on_look(phase, method, view)
