"""Scenarios 6 and 8: one server ten times slower than the others; load beyond all capacity."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Any

import lbd_daemon as ld
import numpy as np
import pytest
from lbd_waiting import until
from servers import Servers, steps

from config.address import Address
from testbed.load.arrivals import Plan
from testbed.load.generator import LoadGenerator, Target
from testbed.load.result import Outcome, Result
from testbed.processes import Children

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(600)]
Start = Callable[..., ld.Daemon]

LAG_S = 1e9
"""Of the load generator: on a busy machine it may be late; that is not judged here."""


@pytest.fixture
def children() -> Iterator[Children]:
    with Children() as started:
        yield started


async def offer(service: dict[str, Any], plan: Plan) -> Result:
    address = Address.parse(service["listen"])
    target = Target(address.host, address.port, timeout_s=60.0, lag_max_s=LAG_S)
    return await LoadGenerator(plan, target).run()


# -- one slow


RIVALS = {
    "lsq": {"policy": "lsq"},
    "least_time": {"policy": "least_time"},
    "ewma": {"policy": "ewma"},
    "agent": {"policy": "sed", "weights": "agent"},
}


@pytest.mark.parametrize("seconds", [4, pytest.param(15, marks=pytest.mark.slow)])
def test_one_ten_times_slower_than_the_others(
    daemon: Start, children: Children, capsys: pytest.CaptureFixture[str], seconds: int
) -> None:
    """At 60 % of the capacity, each policy with the same arrivals; nobody knows the speeds."""
    servers = Servers([1.0, 1.0, 1.0, 1.0, 0.1], children)
    services = {
        rival: ld.service(servers.addresses, **settings) for rival, settings in RIVALS.items()
    }
    one = daemon(*services.values(), workers=2)
    children.start("agent", [sys.executable, "-m", "agent", "--config", str(one.path)])
    name = services["agent"]["name"]
    until(lambda: ld.scalars(name)["frames_applied_total"] > 0, "the agent's weights")
    told, slow_share = [], {}
    for rival, service in services.items():
        # What is measured comes after a time for averages and weights to settle.
        rate_per_s = 0.6 * servers.capacity_per_s
        asyncio.run(offer(service, steps([rate_per_s], 3, seed=1)))
        before = served_by(service, 0)
        result = asyncio.run(offer(service, steps([rate_per_s], seconds, seed=2)))
        assert result.ok.all(), result.failures()
        counts = served_by(service, int(before.sum()) + len(result.table)) - before
        assert set(ld.states(service["name"]).values()) == {"up"}
        p99_ms = float(np.percentile(result.latency_s(), 99)) * 1e3
        slow_share[rival] = counts[4] / counts.sum()
        told.append(f"{rival} p99 {p99_ms:.0f} ms, {slow_share[rival]:.1%} to the slow one")
    with capsys.disabled():
        print(f"\n[{len(result.table)} flows each, none failed: {'; '.join(told)}]")
    # A fifth would be its share by turns.
    assert max(slow_share.values()) < 0.1


def served_by(service: dict[str, Any], at_least: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Flows by backend, once so many are over."""

    def look() -> bool:
        found = ld.totals(service["name"])
        return found["flows_total"] >= at_least and found["flows"] == 0

    until(look, "the flows over")
    found = ld.snapshot(service["name"])
    return np.asarray(found.totals["flows_total"])


# -- all too slow


RAMP = (0.75, 0.9, 1.05, 1.25, 1.5, 1.74, 0.75)


@pytest.mark.parametrize("weights", ["static", "agent"])
@pytest.mark.parametrize("step_s", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_ramp_beyond_capacity_with_antagonists(
    daemon: Start,
    children: Children,
    capsys: pytest.CaptureFixture[str],
    weights: str,
    step_s: int,
) -> None:
    """Every second server in turn loses half its speed to somebody else meanwhile.

    What the servers cannot do waits, and beyond the queue's bound the newest are turned away: each
    failure that a client sees is one that the balancer has counted as shed.
    """
    servers = Servers([1.0, 1.0, 2.0, 2.0], children)
    service = ld.service(servers.addresses, weights=weights, queue={"size": 60, "timeout_ms": 1500})
    for entry in service["backends"]:
        entry["max_connections"] = 16
    name = service["name"]
    one = daemon(service, workers=2)
    if weights == "agent":
        children.start("agent", [sys.executable, "-m", "agent", "--config", str(one.path)])
        until(lambda: ld.scalars(name)["frames_applied_total"] > 0, "the agent's weights")
    plan = steps([share * servers.capacity_per_s for share in RAMP], step_s, seed=3)

    async def antagonists(over: asyncio.Event) -> None:
        turn = 0
        while not over.is_set():
            for number, speed in enumerate(servers.speeds):
                slowed = number % 2 == turn % 2
                await asyncio.to_thread(servers.set_speed, number, speed / (2 if slowed else 1))
            turn += 1
            await asyncio.sleep(0.3)

    async def ramp() -> Result:
        over = asyncio.Event()
        trouble = asyncio.create_task(antagonists(over))
        result = await offer(service, plan)
        over.set()
        await trouble
        return result

    result = asyncio.run(ramp())
    until(lambda: ld.totals(name)["flows"] == 0, "all flows over")
    totals, counts = ld.totals(name), ld.scalars(name)
    shed = counts["queue_full_total"] + counts["queue_timeout_total"]
    failed = int((~result.ok).sum())
    by_step = [
        f"{share:g}: {part.mean():.0%}"
        for share, part in zip(RAMP, _by_step(result, step_s), strict=True)
    ]
    with capsys.disabled():
        print(
            f"\n[{weights}: {len(plan)} flows, {failed} failed, {shed} shed; served at a load of "
            f"{', '.join(by_step)}; {result.table['bytes'].sum()} bytes]"
        )
    assert failed == shed
    assert set(result.failures()) <= {Outcome.RESET.label, Outcome.TRUNCATED.label}
    assert totals["completed_total"] == len(plan) - shed
    assert set(ld.states(name).values()) == {"up"}


def _by_step(result: Result, step_s: int) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    step = result.table["planned_ns"] // int(step_s * 1e9)
    return [result.ok[step == number] for number in range(len(RAMP))]
