"""Short connections, as many a second as there is CPU: both ends, each a process of its own.

`serve` echoes; it prints its port. `ask HOST PORT LANES` has that many connections at any time, and
each asks once; at the end of its standard input it prints what became of them, as JSON.

Lives here: the two ends, and how a test starts them. Never here: the balancer, judgement.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

ANSWER_S = 60.0
BODY = bytes(range(200))


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


class Ask(asyncio.Protocol):
    """`over` becomes None, or what went wrong."""

    def __init__(self) -> None:
        self._got = b""
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(BODY)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._got += data
        if len(self._got) >= len(BODY):
            self._end(None if self._got == BODY else "other bytes")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("closed early" if error is None else type(error).__name__)

    def _end(self, what: str | None) -> None:
        if not self.over.done():
            self.over.set_result(what)
            self._transport.close()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def ask(host: str, port: int, lanes: int) -> None:
    loop = asyncio.get_running_loop()
    going, failed, done = True, Counter[str](), 0

    async def lane() -> None:
        nonlocal done
        while going:
            try:
                async with asyncio.timeout(ANSWER_S):
                    _, protocol = await loop.create_connection(Ask, host, port)
                    what = await protocol.over
            except OSError as error:  # a time-out too
                what = type(error).__name__
            done += 1
            if what is not None:
                failed[what] += 1

    running = [asyncio.create_task(lane()) for _ in range(lanes)]
    await asyncio.to_thread(sys.stdin.read)
    going = False
    await asyncio.gather(*running)
    print(json.dumps({"done": done, "failed": failed}), flush=True)


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def backend() -> Iterator[str]:
    """An echoing server's address."""
    with _process("serve") as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"


@contextmanager
def rush(listen: str, lanes: int) -> Iterator[dict[str, Any]]:
    """Ask all through the block; after it the dictionary has `done` and `failed`."""
    host, _, port = listen.rpartition(":")
    found: dict[str, Any] = {}
    with _process("ask", host, port, str(lanes)) as process:
        yield found
        told, _ = process.communicate("", timeout=2 * ANSWER_S)
        found.update(json.loads(told))


if __name__ == "__main__":
    uvloop.install()
    if sys.argv[1] == "serve":
        asyncio.run(serve())
    else:
        asyncio.run(ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
