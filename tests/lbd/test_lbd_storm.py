"""Many flows at once, each of its own kind: every byte arrives, every account closes.

Each connection follows a plan that both its ends derive from its number: how many bytes each way,
in which chunks, who ends it how. A direction without a reset must be whole, with one a prefix.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import resource
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import RESET
from lbd_client import settled
from lbd_waiting import until

from config.address import Address

Start = Callable[..., ld.Daemon]
pytestmark = pytest.mark.scenario
HEAD = struct.Struct("!I")
BLOCK = random.Random(7).randbytes(1 << 20)
MAX_BYTES = 200_000


@dataclass(frozen=True)
class Plan:
    """`start` and `size` of (client, server): which bytes of BLOCK it sends.

    ending: both half-close after their last byte (`each`); the server only when it has the client's
    end (`after`); or one of them resets half-way (`client reset`, `server reset`).
    """

    number: int
    start: tuple[int, int]
    size: tuple[int, int]
    ending: str

    @classmethod
    def of(cls, number: int) -> Plan:
        draw = random.Random(number)
        starts = (draw.randrange(len(BLOCK) // 2), draw.randrange(len(BLOCK) // 2))
        sizes = (
            draw.choice([0, 1, draw.randrange(2000), draw.randrange(MAX_BYTES)]),
            draw.choice([1, draw.randrange(1, 2000), draw.randrange(1, MAX_BYTES)]),
        )
        ending = draw.choice(["each", "each", "after", "after", "client reset", "server reset"])
        return cls(number, starts, sizes, ending)

    def sent(self, side: int) -> bytes:
        return BLOCK[self.start[side] : self.start[side] + self.size[side]]


class Ends:
    """What each end of each connection got, by (number, side): how many bytes, and their digest."""

    def __init__(self) -> None:
        self.got: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._loop = asyncio.get_running_loop()

    async def play(self, side: int, plan: Plan, sock: socket.socket) -> None:
        """One end: send its bytes, read the other's, end as planned."""
        resets = plan.ending == ("client reset", "server reset")[side]
        reading = asyncio.create_task(self._read(side, plan, sock))
        try:
            if plan.ending == "after" and side == 1:
                await reading
            body = plan.sent(side)
            draw = random.Random(plan.number * 2 + side)
            cut = draw.randrange(len(body) + 1) if resets else len(body)
            at = 0
            while at < cut:
                chunk = draw.choice([1, 100, 5000, 70_000])
                await self._loop.sock_sendall(sock, body[at : min(at + chunk, cut)])
                at += chunk
            if resets:
                reading.cancel()
            else:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            assert "reset" in plan.ending, plan
        await asyncio.gather(reading, return_exceptions=True)
        if resets:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def _read(self, side: int, plan: Plan, sock: socket.socket) -> None:
        digest, count = hashlib.sha256(), 0
        try:
            while part := await self._loop.sock_recv(sock, 65536):
                digest.update(part)
                count += len(part)
        except ConnectionError:
            assert "reset" in plan.ending, plan
        finally:
            self.got[plan.number, side] = count, digest.digest()

    async def serve(self, sock: socket.socket) -> None:
        """The server's end: the first bytes tell whose plan it is."""
        with sock:
            head = b""
            while len(head) < HEAD.size:
                head += await self._loop.sock_recv(sock, HEAD.size - len(head))
            await self.play(1, Plan.of(HEAD.unpack(head)[0]), sock)

    async def accept(self, server: socket.socket, flows: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(flows):
                sock, _ = await self._loop.sock_accept(server)
                group.create_task(self.serve(sock))

    async def client(self, number: int, address: Address, start: asyncio.Barrier) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await self._loop.sock_connect(sock, (address.host, address.port))
            await self._loop.sock_sendall(sock, HEAD.pack(number))
            await start.wait()
            await self.play(0, Plan.of(number), sock)

    def check(self, plan: Plan) -> None:
        for side in (0, 1):
            body = plan.sent(1 - side)
            # One that resets at once may have read nothing.
            count, digest = self.got.get((plan.number, side), (0, hashlib.sha256().digest()))
            assert digest == hashlib.sha256(body[:count]).digest(), (plan, side)
            assert count == len(body) or "reset" in plan.ending, (plan, side, count)


async def storm(service: dict[str, Any], server: socket.socket, flows: int) -> Ends:
    """All connections open at once, then all play their plans."""
    ends = Ends()
    address, start = Address.parse(service["listen"]), asyncio.Barrier(flows + 1)
    async with asyncio.timeout(250), asyncio.TaskGroup() as group:
        group.create_task(ends.accept(server, flows))
        for number in range(flows):
            group.create_task(ends.client(number, address, start))

        def all_open() -> bool:
            return ld.totals(service["name"])["connected_total"] == flows

        await asyncio.to_thread(until, all_open, "all connections open")
        await start.wait()
    return ends


@pytest.mark.parametrize(
    "flows", [pytest.param(1000, id="1000"), pytest.param(4000, id="4000", marks=pytest.mark.slow)]
)
def test_every_byte_of_every_flow_arrives_and_the_accounts_close(
    daemon: Start, flows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.setblocking(False)
    service = ld.service([f"127.0.0.1:{server.getsockname()[1]}"], max_connections=20_000)
    daemon(service, workers=2)
    started = time.monotonic()
    with server:
        ends = asyncio.run(storm(service, server, flows))
    took_s = time.monotonic() - started
    compared = sum(count for count, _ in ends.got.values())
    with capsys.disabled():
        print(
            f"\n[{flows} flows at once through 2 workers: {took_s:.1f} s, "
            f"{compared} bytes compared]"
        )
    plans = [Plan.of(number) for number in range(flows)]
    for plan in plans:
        ends.check(plan)
    found = settled(service["name"], flows)
    assert found["waiting"] == 0
    assert sum(found[name] for name in OUTCOMES) == flows
    assert found["completed_total"] >= sum("reset" not in plan.ending for plan in plans)


OUTCOMES = (
    "completed_total",
    "backend_reset_total",
    "backend_silent_total",
    "client_reset_total",
)
