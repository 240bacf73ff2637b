"""The supervisor's HTTP server on the metrics address.

Lives here: listening, limits, the order of start and end. Never here: what an answer says.
It runs in the supervisor's own loop: a scrape reads shared memory between two heartbeats, and no
second thread sees it half changed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from config.address import Address
from lbd.exposition import Exposition, quality
from lbd.protobuf_format import MEDIA_TYPE, PARAMETERS, ProtobufExposition
from lbd.sockets import listen
from lbd.text_format import TextExposition

SHUTDOWN_S: Final = 1.0
CONNECTIONS: Final = 128
"""At most so many at a time; whoever comes on top is closed: those who only hold connections are to
leave the supervisor descriptors to start workers with."""
SILENT_S: Final = 10.0
"""Who has not sent a request by then is closed."""
KEPT_S: Final = 75.0
"""How long a connection is kept for the next request."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Refused:
    """Connections closed unheard, over all servers that it is given to."""

    full_total: int = 0
    silent_total: int = 0


def metrics_application(write: Callable[[Exposition], None]) -> web.Application:
    """GET /metrics, in protobuf for who prefers that to text."""

    async def metrics(request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        protobuf = quality(accept, MEDIA_TYPE, **PARAMETERS)
        wanted = protobuf > quality(accept, "text/plain")
        out: Exposition = ProtobufExposition() if wanted else TextExposition()
        write(out)
        return web.Response(body=out.body(), headers={"Content-Type": out.content_type})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    return application


class _Closed(asyncio.Protocol):
    """For one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class HttpServer:
    """One application on one listening socket."""

    def __init__(self, application: web.Application, refused: Refused) -> None:
        application.middlewares.append(self._note)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=KEPT_S,
        )
        self._refused = refused
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        self._listening: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        self._sock = sock
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._connection, sock=sock)

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= CONNECTIONS:
            self._refused.full_total += 1
            return _Closed()
        one = server()
        loop = asyncio.get_running_loop()
        self._silent[one] = loop.call_later(SILENT_S, self._end_silent, one)
        return one

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        return await handler(request)

    def _end_silent(self, one: web.RequestHandler) -> None:
        del self._silent[one]
        if one.transport is not None:
            self._refused.silent_total += 1
            one.force_close()

    async def listen(self, address: Address) -> None:
        """Raises ListenError."""
        await self.start(listen(address, 1)[0])

    def same_socket(self) -> socket.socket:
        """For a successor at the same address: what waits there is not lost when this closes."""
        return self._sock.dup()

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()
