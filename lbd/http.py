"""The supervisor's HTTP server on the metrics address.

Lives here: listening, limits, the order of start and end. Never here: what an answer says.
It runs in the supervisor's own loop: a scrape reads shared memory between two heartbeats, and no
second thread sees it half changed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from aiohttp import web

from config.address import Address
from lbd.exposition import Exposition, quality
from lbd.protobuf_format import MEDIA_TYPE, PARAMETERS, ProtobufExposition
from lbd.sockets import listen
from lbd.text_format import TextExposition

SHUTDOWN_S = 1.0


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


class HttpServer:
    """One application on one listening socket."""

    def __init__(self, application: web.Application) -> None:
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_S
        )

    async def start(self, sock: socket.socket) -> None:
        self._sock = sock
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def listen(self, address: Address) -> None:
        """Raises ListenError."""
        await self.start(listen(address, 1)[0])

    def same_socket(self) -> socket.socket:
        """For a successor at the same address: what waits there is not lost when this closes."""
        return self._sock.dup()

    async def close(self) -> None:
        await self._runner.cleanup()
