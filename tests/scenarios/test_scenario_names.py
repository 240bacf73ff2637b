"""Scenario 12: names that are gone, empty, unanswered, changed, while clients are connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld
import pytest
from conversation import Talk, talking
from crowd import Crowd, send_while
from lbd_backends import Backend, echo
from lbd_waiting import until
from lbd_zone import Zone

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
CLIENTS = 10


@pytest.mark.parametrize(
    "rounds", [1, pytest.param(5, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_whatever_becomes_of_a_name_no_flow_is_lost(
    daemon: Start,
    backend: Make,
    zone: tuple[Zone, dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    rounds: int,
) -> None:
    """Clients that stay connected and clients that come anew, through every change."""
    records, resolver = zone
    port = ld.free_port()
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    for host in hosts:
        backend(echo, bind=(host, port))
    records.set("web.test", hosts[0], hosts[1])
    service = ld.service([f"web.test:{port}"], slots=16, policy="rr")
    service["backends"][0]["dns"] = {"every_s": 1}
    service["timeouts"] = {"drain_s": 900}
    name = service["name"]
    one = daemon(service, workers=2, resolver=resolver)
    going = True

    def reachable() -> set[str]:
        with ld.attached(name) as region:
            slots = set(region.usable_slots().tolist())
            return {e.address.rpartition(":")[0] for e in region.entries() if e.slot in slots}

    async def eventually(look: Callable[[], object], what: str) -> None:
        await asyncio.to_thread(until, look, what)

    async def change(*new: str) -> None:
        records.set("web.test", *new)
        await eventually(lambda: reachable() == set(new), f"{new} alone")

    async def trouble() -> tuple[Talk, Crowd]:
        nonlocal going
        async with talking(service, CLIENTS) as talk:
            crowd = asyncio.create_task(send_while(service, 8, lambda: going))
            for _ in range(rounds):
                await change(hosts[2])
                for disaster in ("gone", "empty", "broken"):
                    asked = records.asked
                    if disaster == "gone":
                        records.remove("web.test")
                    elif disaster == "empty":
                        records.set("web.test")
                    else:
                        records.broken = True
                    await eventually(lambda a=asked: records.asked >= a + 3, "asked again")
                    assert reachable() == {hosts[2]}
                records.broken = False
                await change(hosts[0], hosts[1])
            going = False
            return talk, await crowd

    talk, crowd = asyncio.run(trouble())
    with capsys.disabled():
        print(f"\n[{rounds} rounds of name trouble: {crowd}; connected all the time: {talk}]")
    assert (crowd.failed, crowd.wrong) == (0, 0)
    assert crowd.whole > 0
    assert talk.connections == CLIENTS
    assert talk.refused == talk.broken == talk.wrong == talk.unanswered == 0
    assert "the last addresses stay" in one.log
