"""Many flows at once through two workers: whether every byte arrives and every account closes.

Lives here: the measurement, both ends of each connection, which follow a plan drawn from its
number. The server answers every byte inverted as it comes, and after the end of file all it read
once more, as it was: so bytes always follow a half-close. A side that is reset must have got a
prefix, any other the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any

from lbd.flow import Outcome
from shm.reader import Reader
from testbed.bench.single import single, within

DEADLINE_S = 100.0
SETTLE_S = 20.0
MAX_BYTES = 100_000
CHUNKS_BYTES = (100, 1500, 9000, 65536)
BLOCK = random.Random(7).randbytes(1 << 20)
INVERSE = bytes(range(255, -1, -1))
HEAD = struct.Struct("!I")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s


@dataclass(frozen=True)
class Plan:
    """body: what the client sends. ending: it resets half-way (`reset`), half-closes with its last
    byte (`early`), or only when all it sent has come back inverted (`late`).
    """

    body: bytes
    ending: str

    @classmethod
    def of(cls, number: int) -> Plan:
        draw = random.Random(number)
        start, size = draw.randrange(len(BLOCK) - MAX_BYTES), draw.randrange(1, MAX_BYTES)
        (ending,) = draw.choices(("reset", "early", "late"), (3, 10, 17))
        return cls(BLOCK[start : start + size], ending)


class Storm:
    """`same`: whether a side got what it should, by (number, side); absent if it never ended."""

    def __init__(self, count: int) -> None:
        self.plans = [Plan.of(number) for number in range(count)]
        self.same: dict[tuple[int, str], bool] = {}
        # Both ends of all flows: none starts before all are open, none is through before all are.
        self._together = asyncio.Barrier(2 * count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The server's end; the first bytes tell whose plan it is."""
        (number,) = HEAD.unpack(await reader.readexactly(HEAD.size))
        plan, draw, got = self.plans[number], random.Random(f"server {number}"), bytearray()
        await self._together.wait()
        whole = False
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(draw.choice(CHUNKS_BYTES)):
                got += chunk
                await _send(writer, chunk.translate(INVERSE), draw)
            whole = True
            await _send(writer, got, draw)
        reset = plan.ending == "reset" and not whole
        self.same[number, "server"] = plan.body.startswith(got) if reset else plan.body == got
        await self._end(writer)

    async def ask(self, number: int, port: int) -> None:
        """The client's end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        plan, draw = self.plans[number], random.Random(f"client {number}")
        writer.write(HEAD.pack(number))
        await self._together.wait()
        if plan.ending == "reset":
            half = plan.body[: len(plan.body) // 2]
            await _send(writer, half, draw)
            # Some of the answer first, so that the reset falls into traffic of both directions.
            wanted = half[: draw.randrange(len(half) + 1)].translate(INVERSE)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                self.same[number, "client"] = await reader.readexactly(len(wanted)) == wanted
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        else:
            early, got = plan.ending == "early", bytearray()
            asking = asyncio.create_task(_send(writer, plan.body, draw, end=early))
            with contextlib.suppress(ConnectionError):
                while chunk := await reader.read(draw.choice(CHUNKS_BYTES)):
                    got += chunk
                    if not early and len(got) == len(plan.body):
                        writer.write_eof()
            await asyncio.gather(asking, return_exceptions=True)
            self.same[number, "client"] = got == plan.body.translate(INVERSE) + plan.body
        await self._end(writer)

    async def _end(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await self._together.wait()

    def identical(self, number: int) -> bool:
        """Whether each side got what the other sent it, up to a reset."""
        return all(self.same.get((number, side), False) for side in ("client", "server"))


async def _send(
    writer: asyncio.StreamWriter, body: bytes | bytearray, draw: random.Random, end: bool = False
) -> None:
    at = 0
    while at < len(body):
        size = draw.choice(CHUNKS_BYTES)
        writer.write(bytes(body[at : at + size]))
        await writer.drain()
        # A drain that need not wait gives no other flow its turn.
        await asyncio.sleep(0)
        at += size
    if end:
        writer.write_eof()


async def _play(storm: Storm, listener: socket.socket, port: int) -> None:
    server = await asyncio.start_server(storm.serve, sock=listener, backlog=4096)
    # What has not ended in time is missing from the storm's account, and so counted there.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(storm.ask(n, port) for n in range(len(storm.plans))))
    server.close()


def run(count: int = 1000) -> dict[str, Any]:
    """`seconds` is from the first connection to the last one's end, both ends in this process."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends of every flow are here, and the daemon, with as many, inherits the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    storm = Storm(count)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    with listener, single(listener.getsockname()[1], workers=2) as daemon:
        start_s = time.monotonic()
        asyncio.run(_play(storm, listener, daemon.port))
        seconds = time.monotonic() - start_s
        reader = Reader(daemon.region)
        within(SETTLE_S, lambda: not reader.snapshot(time.monotonic_ns()).flows.any())
        seen = reader.snapshot(time.monotonic_ns())
    totals = {name: int(row.sum()) for name, row in seen.totals.items()}
    identical = sum(map(storm.identical, range(count)))
    return {
        "flows": totals["flows_total"],
        "identical": identical,
        "mismatched": count - identical,
        "q_left": int(seen.flows.sum()),
        "totals_add_up": totals["flows_total"] == sum(totals[o.value] for o in Outcome),
        "seconds": seconds,
    }
