"""What a step of the agent costs, observe to weights written, over a real region; and its memory.

Lives here: the measurement. Two workers' blocks of a region are filled with counters and samples;
the step is the live agent's (`agent.live.ServiceAgent`), frozen, with the policy that comes with
it and the monitor that watches over it. Its memory is that of a process of its own, which has
stepped for a while.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from agent.live import ServiceAgent
from agent.observe import observe
from config.schema import Agent as AgentConfig
from shm.layout import Layout
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock
from testbed.processes import Children

BACKENDS = 64
STEPS = 2000
START_S = 30.0
RESIDENT_S = 3.0


def run() -> dict[str, Any]:
    """Milliseconds: `observe_ms` is reading and reducing all features, `step_ms` the whole step."""
    name = f"bench-{secrets.token_hex(3)}"
    region = Region.create(name, Layout(2, BACKENDS, 64))
    agent = ServiceAgent(name, AgentConfig(mode="frozen"))
    try:
        blocks = _filled(region)
        resident_mb = _resident_mb(name, blocks)
        reader = Reader(region)
        observing, stepping = [], []
        previous = None
        for _ in range(STEPS):
            for block in blocks:
                _traffic(block, flows=200)
            start = time.perf_counter()
            previous = observe(reader.snapshot(time.monotonic_ns()), previous, None)
            observing.append(time.perf_counter() - start)
            start = time.perf_counter()
            agent.step(time.monotonic_ns())
            stepping.append(time.perf_counter() - start)
    finally:
        agent.close()
        region.remove()
    return {
        "backends": BACKENDS,
        "observe_ms_p50": float(np.percentile(observing, 50)) * 1e3,
        "observe_ms_p99": float(np.percentile(observing, 99)) * 1e3,
        "step_ms_p50": float(np.percentile(stepping, 50)) * 1e3,
        "step_ms_p99": float(np.percentile(stepping, 99)) * 1e3,
        "resident_mb": resident_mb,
    }


def _resident_mb(name: str, blocks: list[WorkerBlock]) -> float:
    """Of `lbd-agent` in a process of its own, after RESIDENT_S of steps."""
    service = {
        "name": name,
        "listen": "127.0.0.1:9",
        "weights": "agent",
        "slots": BACKENDS,
        "backends": [{"name": "b0", "address": "127.0.0.1:9000"}],
    }
    with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
        path = Path(folder) / "lbd.yaml"
        path.write_text(yaml.safe_dump({"services": [service], "agent": {"mode": "frozen"}}))
        argv = [sys.executable, "-m", "agent", "--config", str(path)]
        child = children.start("agent", argv, env={"OPENBLAS_NUM_THREADS": "1"})
        child.wait_line("attached", START_S)
        until_s = time.monotonic() + RESIDENT_S
        while time.monotonic() < until_s:
            for block in blocks:
                _traffic(block, flows=200)
            time.sleep(0.1)
        status = Path(f"/proc/{child.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _filled(region: Region) -> list[WorkerBlock]:
    entries = [region.add_backend(f"b{i}", f"127.0.0.1:{9000 + i}", 1.0) for i in range(BACKENDS)]
    blocks = [WorkerBlock(region, worker) for worker in range(region.layout.workers)]
    for block in blocks:
        for entry in entries:
            block.adopt(entry.slot, entry.identity)
        _traffic(block, flows=20_000)
    return blocks


def _traffic(block: WorkerBlock, flows: int) -> None:
    """Count and sample as that many flows would."""
    for _ in range(flows):
        slot = randrange(BACKENDS)
        now_ns = time.monotonic_ns()
        block.rows["flows_total"][slot] += 1
        block.sample_arrival(now_ns)
        block.sample_duration(slot, now_ns, randrange(1_000_000, 100_000_000))
        block.sample_fct(slot, now_ns, randrange(1_000_000, 100_000_000))
    block.publish(time.monotonic_ns())
