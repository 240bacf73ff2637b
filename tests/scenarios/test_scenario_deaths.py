"""Deaths while connections are kept open: what dies takes its own flows with it, and no others."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from conversation import Talk, talking
from lbd_backends import Backend, echo
from lbd_waiting import until

from agent.act.network import fresh_parameters
from agent.learn import checkpoint

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
CLIENTS = 30


def tell(capsys: pytest.CaptureFixture[str], what: str, talk: Talk) -> None:
    with capsys.disabled():
        print(f"\n[{what}: {talk}]")


async def eventually(look: Callable[[], Any], what: str) -> None:
    await asyncio.to_thread(until, look, what)


def successor_at_work(name: str, worker: int, victim: int) -> bool:
    with ld.attached(name) as region:
        return bool(
            ld.worker_pids(region)[worker] not in (0, victim) and ld.heartbeats(region)[worker]
        )


def never_back(before: dict[str, int], after: dict[str, int]) -> bool:
    return all(after[key] >= before[key] for key in before if key.endswith("_total"))


@pytest.mark.parametrize("load", ["flows", "exchanges"])
@pytest.mark.parametrize(
    "kills", [2, pytest.param(8, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_killed_workers_lose_their_own_flows_and_count_them(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], load: str, kills: int
) -> None:
    """Nobody is refused, what the balancer calls lost is what clients saw break, q returns to 0."""
    backends = [backend(echo) for _ in range(3)]
    service = ld.service([one.address for one in backends], policy="lsq", load=load)
    name = service["name"]
    daemon(service, workers=2)
    seen = [ld.totals(name)]

    async def kill_by_turns() -> Talk:
        async with talking(service, CLIENTS) as talk:
            for kill in range(kills):
                answers = talk.answers
                await eventually(lambda a=answers: talk.answers > a + 100, "clients talking")
                with ld.attached(name) as region:
                    victim = ld.worker_pids(region)[kill % 2]
                os.kill(victim, signal.SIGKILL)
                await eventually(
                    lambda w=kill % 2, v=victim: successor_at_work(name, w, v), "a successor"
                )
                seen.append(ld.totals(name))
        return talk

    talk = asyncio.run(kill_by_turns())
    until(lambda: ld.totals(name)["flows"] == 0, "no flow left")
    seen.append(ld.totals(name))
    tell(capsys, f"{kills} workers killed, load: {load}", talk)
    assert talk.refused == talk.wrong == talk.unanswered == 0
    assert seen[-1]["lost_total"] == talk.broken
    assert seen[-1]["completed_total"] == talk.connections - talk.broken
    assert all(map(never_back, seen, seen[1:]))
    found = ld.snapshot(name)
    assert (found.exchanges is not None) == (load == "exchanges")
    if found.exchanges is not None:
        assert found.exchanges.busy.tolist() == found.exchanges.waiting.tolist() == [0, 0, 0]


@pytest.fixture
def start_agent() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """`lbd-agent` as a process of its own; killed after the test at the latest."""
    started: list[subprocess.Popen[bytes]] = []

    def start(config: Path) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "agent", "--config", str(config)],
                cwd=ld.ROOT,
                env={**os.environ, "PYTHONPATH": str(ld.ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_or_stopped_agent_costs_no_flow(
    daemon: Start,
    backend: Make,
    start_agent: Callable[[Path], subprocess.Popen[bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The real agent, frozen: stopped, continued, killed, started again, while clients talk."""
    backends = [backend(echo) for _ in range(3)]
    service = ld.service([one.address for one in backends], weights="agent", load="exchanges")
    saved = tmp_path / "policy.safetensors"
    arrays = {f"actor.{key}": value for key, value in fresh_parameters(0).items()}
    checkpoint.save(checkpoint.Saved(arrays, {}), saved)
    one = daemon(service, workers=2, agent={"mode": "frozen", "checkpoint": str(saved)})
    name = service["name"]

    def in_force() -> int:
        with ld.attached(name) as region:
            return sum(ld.scalar(region, w, "weights_in_force") for w in range(2))

    async def trouble() -> Talk:
        async with talking(service, CLIENTS) as talk:
            agent = start_agent(one.path)
            await eventually(lambda: in_force() == 2, "weights in force")
            agent.send_signal(signal.SIGSTOP)
            await eventually(lambda: in_force() == 0, "the fallback")
            agent.send_signal(signal.SIGCONT)
            await eventually(lambda: in_force() == 2, "weights in force again")
            agent.kill()
            await eventually(lambda: in_force() == 0, "the fallback again")
            answers = talk.answers
            await eventually(lambda: talk.answers > answers + 100, "clients talking")
            start_agent(one.path)
            await eventually(lambda: in_force() == 2, "its successor's weights in force")
        return talk

    talk = asyncio.run(trouble())
    tell(capsys, "agent stopped and killed", talk)
    assert talk.refused == talk.broken == talk.wrong == talk.unanswered == 0
    assert talk.connections == CLIENTS
    until(lambda: ld.totals(name)["completed_total"] == CLIENTS, "all flows completed")
    assert ld.scalars(name)["fallback_total"] >= 4
