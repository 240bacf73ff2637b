"""The runtime API over HTTP: requests to handlers, faults to statuses.

Lives here: HTTP's details. Never here: what a route does (`lbd.api.routes`), the socket
(`lbd.api.server`).

| status | means |
|---|---|
| 200 | done |
| 400 | the wish is not valid; nothing has changed |
| 403 | the peer may only read |
| 404 | no such route, service or backend |
| 409 | the configuration cannot be taken into force; nothing has changed |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from pydantic import BaseModel, ValidationError

from config.load import ConfigError
from config.problem import dotted
from lbd.api.edits import EditError, UnknownError
from lbd.api.openapi import description
from lbd.api.peer import level, peer
from lbd.api.routes import ROUTES, Asked, Daemon, Route
from lbd.reload_error import ReloadError

BODY_BYTES: Final = 1 << 16


def application(daemon: Daemon, operators: int | None) -> web.Application:
    """`operators`: the group that may change things."""
    app = web.Application(client_max_size=BODY_BYTES)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(daemon, route, operators))

    async def openapi(request: web.Request) -> web.Response:
        return web.json_response(description())

    app.router.add_get("/v1/openapi.json", openapi)
    return app


def _handler(
    daemon: Daemon, route: Route, operators: int | None
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        may = level(peer(request.transport.get_extra_info("socket")), operators)
        if may < route.level:
            return _problem(403, "this needs an operator; you may read")
        try:
            wish = await _wish(request, route)
            asked = Asked(daemon, may, dict(request.match_info), request.query, wish)
            answer = await route.handler(asked)
        except UnknownError as error:
            return _problem(404, str(error))
        except (EditError, ConfigError) as error:
            return _problem(400, str(error))
        except ReloadError as error:
            return _problem(409, str(error))
        return web.json_response(answer.model_dump() if isinstance(answer, BaseModel) else answer)

    return handle


async def _wish(request: web.Request, route: Route) -> Any:
    """The body, of the route's model. Raises EditError."""
    if route.wish is None:
        return None
    try:
        return route.wish.model_validate_json(await request.read())
    except ValidationError as error:
        problems = (f"{dotted(d['loc'])}: {d['msg']}" for d in error.errors(include_url=False))
        raise EditError("\n".join(problems)) from None


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
