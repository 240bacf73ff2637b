"""One run over real TCP, and what the machine did meanwhile.

Lives here: the load generators' processes, the daemon before each run, the machine's CPU time.
Never here: the order of runs (`compare`), figures.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.faithful.setting import OVERHEAD, OVERHEAD_PER_S, TIMEOUT_S, Setting
from testbed.load.result import Result
from testbed.processes import Child, ChildError
from testbed.stack import Stack

GRACE_S = TIMEOUT_S + 20.0


@dataclass(frozen=True)
class LiveRun:
    """result: of every request. overhead_s: latencies of requests without work in the same time.

    busy: share of all cores' time that anybody used.
    """

    result: Result
    overhead_s: NDArray[np.float64]
    busy: float


def run(stack: Stack, setting: Setting, service: str, seed: int) -> LiveRun:
    """The plan of `seed` through `service`, beside a trickle of requests without work.

    The daemon starts anew before, so that no run profits from what another one learned. Raises
    ChildError where a process fails.
    """
    stack.daemon.stop()
    stack.start_daemon()
    folder = stack.config.parent
    before = _cpu_ticks()
    # In full: a rounded rate would be another plan than the one that is simulated.
    rate, mean_ms = setting.rate_per_s, setting.mean_work_s * 1e3
    load = _load(stack, setting, service, seed, rate, mean_ms, folder / "run.npz")
    trickle = _load(
        stack, setting, OVERHEAD.name, seed, OVERHEAD_PER_S, 0.0, folder / "overhead.npz"
    )
    result = _result(trickle, setting, folder / "overhead.npz")
    overhead_s = result.latency_s()
    if not overhead_s.size:
        raise ChildError(f"no request without work was answered: {result.failures()}")
    result = _result(load, setting, folder / "run.npz")
    idle, total = (after - b for after, b in zip(_cpu_ticks(), before, strict=True))
    return LiveRun(result, overhead_s, 1.0 - idle / max(total, 1))


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
