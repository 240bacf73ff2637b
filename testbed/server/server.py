"""A backend as a process: the socket, the ready line, the end.

Lives here: start and stop. Never here: what happens to a request (`connection`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvloop

from testbed.kernel import end_with_parent
from testbed.server.backend import Backend, Settings
from testbed.server.connection import Connection

# Deep enough that the kernel's own queue never decides: the discipline's backlog does.
_ACCEPT_QUEUE = 1024
READY = "ready:"


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    backend: Backend
    host: str
    port: int


@asynccontextmanager
async def listening(settings: Settings, host: str, port: int) -> AsyncIterator[Running]:
    """A server on `host`:`port` (0: any free one) in the running loop, until the block ends.

    Raises OSError if the address cannot be had.
    """
    loop = asyncio.get_running_loop()
    backend = Backend(loop, settings)
    page = b"x" * settings.body_bytes
    try:
        server = await loop.create_server(
            lambda: Connection(backend, page),
            host,
            port,
            family=socket.AF_INET,
            backlog=_ACCEPT_QUEUE,
        )
        try:
            address = server.sockets[0].getsockname()
            yield Running(backend, address[0], address[1])
        finally:
            server.close()
    finally:
        backend.close()


def run(settings: Settings, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT, or until the parent process ends; the exit status.

    Prints one line that begins with `READY` when connections are accepted.
    """
    end_with_parent(os.getppid())
    uvloop.run(_serve(settings, host, port))
    return 0


async def _serve(settings: Settings, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with listening(settings, host, port) as server:
        print(
            f"{READY} backend on {server.host}:{server.port}, "
            f"{settings.cpus} CPUs of speed {settings.speed:g}",
            flush=True,
        )
        await stop.wait()
