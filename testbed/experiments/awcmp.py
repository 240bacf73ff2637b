"""AWCMP's prober, in the agent's place: asks every server how busy it is and writes weights.

    python -m testbed.experiments.awcmp REGION PERIOD_S NAME=HOST:PORT...

Lives here: the process, and one step of the rule. Never here: dispatch. The rule is the
simulator's (`testbed.sim.policies.ActiveProbing`): the papers give none. log w moves by GAIN times
the log of the mean of busy + 1 over the server's own, four times a second; where servers are asked
more often each step is smaller, so that time does as much. Who does not answer stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

from shm.errors import RegionAbsent
from shm.region import Region
from shm.weights import AgentBlock
from testbed.experiments.asking import TIMEOUT_S, Asker, AskError
from testbed.kernel import end_with_parent

GAIN = 0.2
GAIN_PERIOD_S = 0.25
BOUND = 0.5 * np.log(16.0)
_FRESH_PERIODS = 8
_ATTACH_S = 0.05


def corrected(
    log_w: NDArray[np.float64], busy: NDArray[np.float64], period_s: float = GAIN_PERIOD_S
) -> NDArray[np.float64]:
    """(N,) the next log weights, mean 0; busy (N,): jobs, NaN where nobody answered."""
    known = np.isfinite(busy)
    if not known.any():
        return log_w
    jobs = np.where(known, busy, 0.0) + 1.0
    gain = 1.0 - (1.0 - GAIN) ** (period_s / GAIN_PERIOD_S)
    step = gain * (np.log(jobs[known].mean()) - np.log(jobs))
    moved = log_w + np.where(known, step, 0.0)
    return np.clip(moved - moved.mean(), -BOUND, BOUND)


def main(argv: Sequence[str]) -> int:
    """Until SIGTERM, or until whoever started it ends."""
    end_with_parent(os.getppid())
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    name, period, *places = argv
    sensors = {}
    for place in places:
        server, _, address = place.partition("=")
        host, _, port = address.rpartition(":")
        sensors[server] = Asker(host, int(port))
    region = _attached(name, set(sensors), stop)
    if region is None:
        return 0
    try:
        probe(region, sensors, float(period), stop)
    finally:
        region.close()
    return 0


def _attached(name: str, servers: set[str], stop: Event) -> Region | None:
    """The region with all servers in it, as soon as there is one; None if told to stop first."""
    while not stop.is_set():
        with contextlib.suppress(RegionAbsent):
            region = Region.attach(name)
            if servers <= {entry.name for entry in region.entries()}:
                return region
            region.close()
        stop.wait(_ATTACH_S)
    return None


def probe(region: Region, sensors: Mapping[str, Asker], period_s: float, stop: Event) -> None:
    """Ask all at once, each period, until `stop`."""
    block = AgentBlock(region)
    entries = [entry for entry in region.entries() if entry.name in sensors]
    slots = np.array([entry.slot for entry in entries], np.int64)
    identity = np.array([entry.identity for entry in entries], np.uint64)
    log_w = np.log(np.array([entry.weight for entry in entries]))
    log_w -= log_w.mean()
    print(f"attached to {len(entries)} servers", flush=True)
    due_s = time.monotonic()
    while not stop.is_set():
        busy = ask_all([sensors[entry.name] for entry in entries])
        log_w = corrected(log_w, busy, period_s)
        now_ns = time.monotonic_ns()
        # One that does not answer keeps the others waiting for TIMEOUT_S.
        fresh_ns = round((_FRESH_PERIODS * period_s + TIMEOUT_S) * 1e9)
        block.beat(now_ns)
        block.publish(slots, identity, np.exp(log_w), now_ns, now_ns + fresh_ns)
        due_s = max(due_s + period_s, time.monotonic())
        stop.wait(due_s - time.monotonic())
    for asker in sensors.values():
        asker.close()


def ask_all(askers: Sequence[Asker]) -> NDArray[np.float64]:
    """(N,) jobs of each, asked at the same time; NaN where nobody answered."""
    found = np.full(len(askers), np.nan)

    def one(index: int) -> None:
        with contextlib.suppress(AskError):
            found[index] = askers[index].ask().jobs

    threads = [Thread(target=one, args=(index,)) for index in range(len(askers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
