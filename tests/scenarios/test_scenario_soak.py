"""Round after round of everything: descriptors, memory and shared memory stay where they are."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from conversation import Talk, talking
from crowd import Crowd, send
from lbd_backends import Backend, echo, reset
from lbd_client import connect
from lbd_datagrams import DatagramServer, client, udp_service
from lbd_datagrams import echo as datagram_echo
from lbd_waiting import until

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
GROWTH_BYTES = 2 << 20
"""Of all processes together: an allocator's arena more, not a leak of each round's."""


@pytest.fixture
def datagram_server() -> Iterator[DatagramServer]:
    one = DatagramServer(datagram_echo)
    yield one
    one.close()


def descriptors(pids: list[int]) -> list[int]:
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]


def at_rest(pids: list[int]) -> list[int]:
    """The least of ten looks: a flow that is over may still have a socket that is being closed."""
    looks = []
    for _ in range(10):
        looks.append(descriptors(pids))
        time.sleep(0.1)
    return [min(counts) for counts in zip(*looks, strict=True)]


def shared_bytes(services: list[dict[str, Any]]) -> list[int]:
    return [ld.segment_path(one["name"]).stat().st_size for one in services]


def resets(service: dict[str, Any], flows: int) -> None:
    """Connections that their client gives up in the midst."""
    for _ in range(flows):
        sock = connect(service)
        sock.sendall(b"never mind")
        reset(sock)


def datagrams(service: dict[str, Any], sessions: int) -> None:
    for number in range(sessions):
        with client(service) as sock:
            sock.send(b"%d" % number)
            assert sock.recv(100) == b"%d" % number


@pytest.mark.parametrize(
    "seconds", [3, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_nothing_grows(
    daemon: Start,
    backend: Make,
    datagram_server: DatagramServer,
    capsys: pytest.CaptureFixture[str],
    seconds: int,
) -> None:
    address = backend(echo).address
    tcp = ld.service([address], timeouts={"idle_s": 5})
    kept = ld.service([address], load="exchanges")
    udp = udp_service([datagram_server.address], responses=1)
    services = [tcp, kept, udp]
    one = daemon(*services, workers=2)
    pids = [one.pid, *one.workers()]
    whole, talks, rounds = Crowd(), [], 0

    async def converse() -> Talk:
        async with talking(kept, 10) as talk:
            await asyncio.sleep(0.2)
        return talk

    def round_of_all() -> None:
        found = asyncio.run(send(tcp, 100, 20, first=100 * rounds))
        assert found.failed == found.wrong == 0
        whole.whole += found.whole
        whole.bytes_compared += found.bytes_compared
        talks.append(asyncio.run(converse()))
        resets(tcp, 20)
        datagrams(udp, 50)
        for service in services:
            name = service["name"]
            until(lambda n=name: ld.totals(n)["flows"] == 0, "the round's flows over")

    for _ in range(3):
        round_of_all()
        rounds += 1
    open_before, shared_before = at_rest(pids), shared_bytes(services)
    memory_bytes = sum(map(ld.rss_bytes, pids))
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        round_of_all()
        rounds += 1
    grown_bytes = sum(map(ld.rss_bytes, pids)) - memory_bytes
    with capsys.disabled():
        print(
            f"\n[soak of {seconds} s: {whole}, {sum(talk.answers for talk in talks)} answers in "
            f"kept connections, {20 * rounds} resets, {50 * rounds} UDP sessions; "
            f"RSS grew {grown_bytes} bytes]"
        )
    assert all(talk.broken == talk.wrong == talk.unanswered == 0 for talk in talks)
    until(lambda: descriptors(pids) == open_before, "as many descriptors as before")
    assert shared_bytes(services) == shared_before
    assert grown_bytes < GROWTH_BYTES
    assert {path.name for path in Path("/dev/shm").glob(f"lbd.t{os.getpid()}-*")} == {
        ld.segment_path(service["name"]).name for service in services
    }
    assert one.workers() == pids[1:]
    assert one.stop() == 0
