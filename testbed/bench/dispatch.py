"""Microseconds a choice, every policy, the state kept up to date included.

Lives here: the measurement. One call is a choice, the flow's count up, and a flow's count down, in
the live layout: two workers' rows of a region.
"""

from __future__ import annotations

import secrets
import timeit
from collections import deque
from typing import Any

import numpy as np

from lbd.dispatch import POLICIES, Load, Memory, create
from shm import layout as lo
from shm.layout import Layout
from shm.region import Region
from shm.worker import WorkerBlock, cache_view

SIZES = (8, 64, 1000)
CALLS = 4000
ROUNDS = 15


def run() -> list[dict[str, Any]]:
    """One row a policy and number of backends; `us` is the fastest of ROUNDS."""
    rows: list[dict[str, Any]] = []
    for count in SIZES:
        for name in POLICIES:
            times = choice_us(name, count)
            rows.append(
                {
                    "policy": name,
                    "backends": count,
                    "us": min(times),
                    "us_median": float(np.median(times)),
                }
            )
    return rows


def choice_us(name: str, count: int, others: int = 0) -> list[float]:
    """ROUNDS times; others: rows that are summed besides those of the workers."""
    slots = min(lo.MAX_SLOTS, count)
    region = Region.create(f"bench-{secrets.token_hex(3)}", Layout(2, slots, 64))
    try:
        block = WorkerBlock(region, 0)
        caches = [cache_view(region, worker) for worker in range(2)]
        rng = np.random.default_rng(1)
        load = Load(
            [cache[lo.ROW["flows"]].view("<f8") for cache in caches] + [np.ones(slots)] * others,
            [cache[lo.ROW["waiting"]].view("<i8") for cache in caches],
            [cache[lo.ROW["waiting_start_ns"]].view("<i8") for cache in caches],
            range(count),
            rng.uniform(1.0, 4.0, count),
        )
        policy = create(name, load, Memory())
        for slot in range(count):
            policy.sampled(slot, 1, int(rng.uniform(1e6, 1e8)))
        choose, flows = policy.choose, block.flows
        open_flows = deque(choose(1, 0) for _ in range(2 * count))
        for slot in open_flows:
            flows[slot] += 1.0
        push, pop = open_flows.append, open_flows.popleft

        def one() -> None:
            slot = choose(1, 12345)
            flows[slot] += 1.0
            push(slot)
            flows[pop()] -= 1.0

        return [
            seconds / CALLS * 1e6 for seconds in timeit.repeat(one, number=CALLS, repeat=ROUNDS)
        ]
    finally:
        region.remove()
