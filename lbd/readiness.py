"""Whether new flows are welcome, for those who send them: GET /ready on the metrics address.

Lives here: the answer's form. Never here: what it goes by (`lbd.supervisor`).
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


def add_readiness(application: web.Application, ready: Callable[[], bool]) -> None:
    """200 while `ready`, else 503."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(status=503, text="no\n")

    application.router.add_get("/ready", answer)
