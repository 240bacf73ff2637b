"""How soon weights flow again after kill -9 of the agent, a worker, the daemon, under load.

Lives here: the measurement. Time counts from when both sides are up: the agent has attached, the
daemon is ready, the new worker has started. A step is 250 ms.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from shm import layout as lo
from shm.errors import RegionError
from shm.region import Region
from shm.worker import scalars_view
from testbed.processes import ChildError
from testbed.stack import ServiceSpec, Stack, StackSpec

REPETITIONS = 5
DEADLINE_S = 90.0
SERVICE = "web"
SPEC = StackSpec(
    {"a": 1.0, "b": 2.0, "c": 4.0},
    [ServiceSpec(SERVICE, "sed", agent=True)],
    agent={"mode": "learn", "seed": 1},
)


def run() -> list[dict[str, Any]]:
    """One row a victim, milliseconds over REPETITIONS; and whether a region was left behind."""
    with Stack(SPEC) as stack:
        _until(lambda: in_force(stack))
        argv = [sys.executable, "-m", "testbed", "load", "--json", "--rate", "60", "--mean-ms"]
        argv += ["20", "--duration", "600", "--target", f"127.0.0.1:{stack.port[SERVICE]}"]
        stack.children.start("load", argv)
        rows = []
        for name, kill in (("agent", kill_agent), ("worker", kill_worker), ("daemon", kill_daemon)):
            waits_ms = []
            for _ in range(REPETITIONS):
                up_s = kill(stack)
                _until(lambda: in_force(stack))
                waits_ms.append((time.monotonic() - up_s) * 1e3)
            row = {"killed": name, "weights_ms_median": statistics.median(waits_ms)}
            rows.append({**row, "weights_ms_max": max(waits_ms)})
        region = stack.region_name(SERVICE)
    left = _exists(region)
    return [{**row, "region_left": left} for row in rows]


def kill_agent(stack: Stack) -> float:
    """Kill it, wait for the fallback, start another; when that had attached."""
    assert stack.agent is not None
    stack.agent.send_signal(signal.SIGKILL)
    stack.agent.stop()
    _until(lambda: not in_force(stack))
    stack.start_agent()
    return time.monotonic()


def kill_worker(stack: Stack) -> float:
    """Kill worker 0; when its successor had started."""
    region = stack.region(SERVICE)
    scalars = scalars_view(region, 0)
    pid = int(scalars[lo.SCALAR["pid"]])
    os.kill(pid, signal.SIGKILL)
    _until(lambda: int(scalars[lo.SCALAR["pid"]]) not in (0, pid))
    region.close()
    return time.monotonic()


def kill_daemon(stack: Stack) -> float:
    """Kill supervisor and workers, start another daemon; when it was ready."""
    stack.daemon.send_signal(signal.SIGKILL)
    stack.daemon.stop()
    stack.start_daemon()
    return time.monotonic()


def in_force(stack: Stack) -> bool:
    """All workers of the region there is now apply the agent's frames."""
    try:
        region = stack.region(SERVICE)
    except RegionError:
        return False
    workers = [scalars_view(region, index) for index in range(region.layout.workers)]
    found = all(int(scalars[lo.SCALAR["weights_in_force"]]) for scalars in workers)
    region.close()
    return found


def _exists(region: str) -> bool:
    try:
        Region.attach(region).close()
    except RegionError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end_s:
            raise ChildError(f"no recovery within {DEADLINE_S:g} s")
        time.sleep(0.005)
