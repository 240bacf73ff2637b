"""One run over real TCP, and what the machine did meanwhile.

Lives here: the load generators' processes, what they and the backends measured, CPU time.
Never here: the order of runs (`compare`), figures.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray

from shm.reader import Reader
from testbed.faithful.setting import OVERHEAD, OVERHEAD_PER_S, TIMEOUT_S, Setting
from testbed.load.result import Result
from testbed.processes import Child, ChildError
from testbed.stack import READY_S, Stack

Floats = NDArray[np.float64]

GRACE_S = TIMEOUT_S + 20.0


@dataclass(frozen=True)
class Overhead:
    """Mean time that a request takes beside its work. inside_s: while the balancer counts it as in
    progress; outside_s: before and after, which is negative where the client has its answer before
    the balancer has closed.
    """

    inside_s: float
    outside_s: float


@dataclass(frozen=True)
class LiveRun:
    """result: of every request. busy: share of all cores' time that anybody used."""

    result: Result
    overhead: Overhead
    busy: float

    @property
    def lag_p99_s(self) -> float:
        """How late the load generator was."""
        return float(np.percentile(self.result.lag_s(), 99))

    def sent_s(self) -> Floats:
        """(F,) when each request left, which is later than planned by the generator's own lag."""
        return np.asarray(self.result.table["handled_ns"] * 1e-9)

    def latency_s(self) -> Floats:
        """(F,) from then to the answer; TIMEOUT_S for a request that failed."""
        return self.result.latency_s(failure_s=TIMEOUT_S) - np.where(
            self.result.ok, self.result.lag_s(), 0.0
        )


def run(stack: Stack, setting: Setting, service: str, seed: int) -> LiveRun:
    """The plan of `seed` through `service`, beside a trickle of requests without work.

    Raises ChildError where a process fails.
    """
    folder = stack.config.parent
    seen = Reader(stack.region(OVERHEAD.name))
    before, lateness_before, ticks_before = _seen(seen), _lateness(stack), _cpu_ticks()
    # In full: a rounded rate would be another plan than the one that is simulated.
    rate, mean_ms = setting.rate_per_s, setting.mean_work_s * 1e3
    load = _load(stack, setting, service, seed, rate, mean_ms, folder / "run.npz")
    trickle = _load(
        stack, setting, OVERHEAD.name, seed, OVERHEAD_PER_S, 0.0, folder / "overhead.npz"
    )
    empty = _result(trickle, setting, folder / "overhead.npz")
    result = _result(load, setting, folder / "run.npz")
    idle, total = (after - b for after, b in zip(_cpu_ticks(), ticks_before, strict=True))
    late_s, told = _lateness(stack) - lateness_before
    count, inside_s = _seen(seen) - before
    if not empty.ok.any() or not count:
        raise ChildError(f"no request without work was answered: {empty.failures()}")
    latency_s = float((empty.latency_s() - empty.lag_s()[empty.ok]).mean())
    inside_s /= count
    overhead = Overhead(inside_s + late_s / max(told, 1.0), latency_s - inside_s)
    return LiveRun(result, overhead, 1.0 - idle / max(total, 1))


def _seen(reader: Reader) -> Floats:
    """Requests that the balancer has completed so far, and their summed seconds in it."""
    totals = reader.snapshot(monotonic_ns()).totals
    return np.array([totals["completed_total"].sum(), totals["fct_ns_total"].sum() * 1e-9])


def _lateness(stack: Stack) -> Floats:
    """Summed seconds by which all backends answered late so far, and how many answers there were.

    A backend's job ends by arithmetic; this is how long after it the machine let it say so.
    """
    total = np.zeros(2)
    for port in stack.backend_port.values():
        with urlopen(f"http://127.0.0.1:{port}/stats", timeout=READY_S) as answer:
            stats = json.load(answer)
        total += np.array([stats["lateness_mean_s"], 1.0]) * stats["finished"]
    return total


def _load(
    stack: Stack,
    setting: Setting,
    service: str,
    seed: int,
    rate_per_s: float,
    mean_ms: float,
    path: Path,
) -> Child:
    argv = [sys.executable, "-m", "testbed", "load", "--json", "--save", str(path)]
    argv += ["--target", f"127.0.0.1:{stack.port[service]}", "--seed", str(seed)]
    argv += ["--rate", repr(rate_per_s), "--duration", repr(setting.run_s)]
    argv += ["--mean-ms", repr(mean_ms), "--timeout", repr(TIMEOUT_S)]
    return stack.children.start("load", argv)


def _result(load: Child, setting: Setting, path: Path) -> Result:
    status = load.wait(setting.run_s + GRACE_S)
    if not path.exists():
        raise ChildError(f"the load generator ended with {status}: {load.output()[-3:]}")
    result = Result.load(path)
    path.unlink()
    return result


def _cpu_ticks() -> tuple[int, int]:
    """(idle, all) of all cores since boot, proc_stat(5)."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0]
    user, nice, system, idle, wait, *others = map(int, first.split()[1:9])
    return idle + wait, user + nice + system + idle + wait + sum(others)
