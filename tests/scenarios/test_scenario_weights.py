"""Scenario 3: weights that are no numbers, torn, stale or not ours cost no flow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import lbd_daemon as ld
import pytest
from conversation import Talk, talking
from lbd_backends import Backend, echo
from lbd_client import FakeAgent
from lbd_waiting import until

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
CLIENTS = 20
WORKERS = 2

BAD: dict[str, tuple[tuple[float, ...], dict[str, Any], str]] = {
    "not a number": ((float("nan"), 1.0), {}, "frames_invalid_total"),
    "negative": ((-1.0, 1.0), {}, "frames_invalid_total"),
    "all zero": ((0.0, 0.0), {}, "frames_invalid_total"),
    "infinite": ((float("inf"), 1.0), {}, "frames_invalid_total"),
    "stale": ((1.0, 1e9), {"expiry_s": -1.0}, "frames_stale_total"),
    "another's": ((1.0, 1e9), {"shift": 100}, "frames_foreign_total"),
}


def tear(agent: FakeAgent) -> None:
    """The newest frame as an agent leaves it that is killed while it writes."""
    layout = agent.region.layout
    starts = [layout.weight_frame(number) for number in range(layout.depth)]
    agent.region.words[max(starts, key=lambda at: agent.region.words[at])] = 0


@pytest.mark.parametrize(
    "rounds", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_bad_weights_are_refused_and_the_fallback_is_bounded(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], rounds: int
) -> None:
    """Good weights, which expire, between bad ones; clients talk and come anew all the time."""
    service = ld.service(
        [backend(echo).address, backend(echo).address],
        policy="wcmp",
        fallback="rr",
        weights="agent",
        load="exchanges",
    )
    name = service["name"]
    daemon(service, workers=WORKERS)

    def in_force() -> int:
        with ld.attached(name) as region:
            return sum(ld.scalar(region, worker, "weights_in_force") for worker in range(WORKERS))

    def followed(agent: FakeAgent) -> bool:
        """Given anew: a worker that had no turn while they held has not seen them."""
        agent.give(1.0, 3.0, expiry_s=0.2)
        end_s = time.monotonic() + 0.1
        while in_force() < WORKERS and time.monotonic() < end_s:
            time.sleep(0.005)
        return in_force() == WORKERS

    async def eventually(look: Callable[[], Any], what: str) -> None:
        await asyncio.to_thread(until, look, what)

    async def trouble(agent: FakeAgent) -> Talk:
        async with talking(service, CLIENTS) as talk:
            for _ in range(rounds):
                for what, (weight, settings, counter) in BAD.items():
                    await eventually(lambda: followed(agent), "good weights in force")
                    before = ld.scalars(name)[counter]
                    agent.give(*weight, **settings)
                    await eventually(
                        lambda c=counter, b=before: ld.scalars(name)[c] >= b + WORKERS, what
                    )
                    await eventually(lambda: in_force() == 0, "the fallback")
                agent.give(1.0, 3.0, expiry_s=0.2)
                tear(agent)
                answers = talk.answers
                await eventually(lambda a=answers: talk.answers > a + 100, "clients talking")
                await eventually(lambda: in_force() == 0, "the fallback after all")
        return talk

    with closing(FakeAgent(name)) as agent:
        talk = asyncio.run(trouble(agent))
    with capsys.disabled():
        print(f"\n[{rounds * len(BAD)} bad frames: {talk}]")
    assert talk.refused == talk.broken == talk.wrong == talk.unanswered == 0
    assert talk.connections == CLIENTS
