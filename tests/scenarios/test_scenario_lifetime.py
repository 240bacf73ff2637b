"""Backends are drained and come back under traffic; after any amount of it nothing has grown."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import lbd_daemon as ld
import pytest
from crowd import send, send_while
from lbd_backends import Backend, echo
from lbd_client import served
from lbd_supervised import supervised

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


@pytest.mark.parametrize(
    "orders", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_drains_and_maintenance_under_traffic_cost_no_flow(
    backend: Make, capsys: pytest.CaptureFixture[str], orders: int
) -> None:
    """One backend of three after the other goes and comes back, starting slowly."""
    service = ld.service(
        [backend(echo).address for _ in range(3)],
        health={"slow_start": {"window_s": 0.2}},
    )
    name = service["name"]
    async with supervised(service, workers=2) as supervisor:
        monitor, going = supervisor.monitor(name), True
        traffic = asyncio.create_task(send_while(service, 16, lambda: going))
        for number in range(orders):
            backend_name, state = f"b{number % 3}", ("drain", "maint")[number % 2]
            monitor.order(backend_name, state, time.monotonic_ns())
            await asyncio.sleep(0.1)
            assert ld.usable(name) == {"b0", "b1", "b2"} - {backend_name}
            monitor.order(backend_name, "ready", time.monotonic_ns())
            await asyncio.sleep(0.1)
        going = False
        crowd = await traffic
        with capsys.disabled():
            print(f"\n[{orders} drains: {crowd}]")
        assert (crowd.failed, crowd.wrong) == (0, 0)
        assert crowd.whole > 0
        found = await asyncio.to_thread(served, name, crowd.whole)
        assert found["completed_total"] == crowd.whole


@pytest.mark.parametrize(
    ("rounds", "flows"),
    [(4, 200), pytest.param(20, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
)
def test_a_soak_leaves_descriptors_memory_and_shm_as_they_were(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], rounds: int, flows: int
) -> None:
    """After the first round, which fills pools and caches."""
    addresses = [backend(echo).address, backend(echo).address, "127.0.0.1:1"]
    service = ld.service(addresses, retry={"budget": 1.0})
    one = daemon(service, workers=2)
    pids = [one.pid, *one.workers()]
    seen: list[tuple[list[int], int, int]] = []
    for number in range(rounds):
        crowd = asyncio.run(send(service, flows, 40, first=number * flows))
        assert crowd.whole == flows
        served(service["name"], flows * (number + 1))
        rss_bytes = sum(ld.rss_bytes(pid) for pid in pids)
        shm_bytes = ld.segment_path(service["name"]).stat().st_size
        seen.append(([_descriptors(pid) for pid in pids], rss_bytes, shm_bytes))
    grown = seen[-1][1] - seen[0][1]
    with capsys.disabled():
        print(f"\n[soak: {rounds * flows} flows, none failed, RSS grew {grown} bytes]")
    assert seen[-1][0] == seen[0][0]
    assert seen[-1][2] == seen[0][2]
    assert grown < 4 << 20
    assert one.workers() == pids[1:]


def _descriptors(pid: int) -> int:
    return len(os.listdir(Path(f"/proc/{pid}/fd")))
