"""What a step of the agent costs, observe to weights written, over a real region.

Lives here: the measurement. Two workers' blocks of a region are filled with counters and samples;
the step is the live agent's (`agent.live.ServiceAgent`), frozen.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from random import randrange
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.live import ServiceAgent
from agent.observe import observe
from config.schema import Agent as AgentConfig
from shm.layout import Layout
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock

BACKENDS = 64
STEPS = 2000


def run() -> dict[str, Any]:
    """Milliseconds: `observe_ms` is reading and reducing all features, `step_ms` the whole step."""
    name = f"bench-{secrets.token_hex(3)}"
    region = Region.create(name, Layout(2, BACKENDS, 64))
    with TemporaryDirectory() as folder:
        policy = Path(folder) / "policy.safetensors"
        arrays = {f"actor.{key}": array for key, array in fresh_parameters(0).items()}
        checkpoint.save(checkpoint.Saved(arrays, {}), policy)
        agent = ServiceAgent(name, AgentConfig(mode="frozen", checkpoint=policy))
    try:
        blocks = _filled(region)
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
    }


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
