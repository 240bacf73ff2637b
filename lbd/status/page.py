"""The status page on the metrics address: the files, and the stream that keeps them up to date.

Lives here: routes, pace, bounds. Never here: which figures (`lbd.status.state`).
One look a second serves all viewers. A viewer that reads slowly misses looks, holds up nobody, and
after SEND_S without reading is dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from lbd.status.state import Changes, State

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
EVENTS: Final = 200
"""How many events are kept for who comes later."""
VIEWERS: Final = 32
SEND_S: Final = 10.0
FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class StatusPage:
    """Adds itself to `application`; `look` is called once a second while that runs.

    refused_total: viewers that a page before this one refused.
    """

    def __init__(
        self, application: web.Application, look: Callable[[], State], refused_total: int = 0
    ) -> None:
        self._look = look
        self._changes = Changes()
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._events_total = 0
        self._state: State = {}
        self._looks = 0
        self._looked = asyncio.Condition()
        self._closing = False
        self._viewers = 0
        self.refused_total = refused_total
        for path, (name, kind) in FILES.items():
            application.router.add_get(path, _file(name, kind))
        application.router.add_get("/stream", self._stream)
        application.cleanup_ctx.append(self._run)
        application.on_shutdown.append(self._close)

    async def _run(self, application: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(self._tick())
        task.add_done_callback(_loud)
        yield
        task.cancel()

    async def _tick(self) -> None:
        while True:
            state = self._look()
            for text in self._changes.since_last(state):
                self._events.append({"at_s": time.time(), "text": text})
                self._events_total += 1
            self._state = {
                "at_s": time.time(),
                "viewers": self._viewers,
                "viewers_refused_total": self.refused_total,
                **state,
            }
            self._looks += 1
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(EVERY_S)

    async def _close(self, application: web.Application) -> None:
        self._closing = True
        async with self._looked:
            self._looked.notify_all()

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: each the state and the events that this viewer has not had."""
        if self._viewers >= VIEWERS:
            self.refused_total += 1
            raise web.HTTPServiceUnavailable(text=f"{VIEWERS} viewers are the most there may be\n")
        answer = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self._viewers += 1
        try:
            await answer.prepare(request)
            looks = told = 0
            while not self._closing:
                async with self._looked:
                    while self._looks == looks and not self._closing:
                        await self._looked.wait()
                looks = self._looks
                fresh = min(self._events_total - told, len(self._events))
                told = self._events_total
                events = list(self._events)[len(self._events) - fresh :]
                data = json.dumps({**self._state, "events": events}, allow_nan=False)
                async with asyncio.timeout(SEND_S):
                    await answer.write(f"data: {data}\n\n".encode())
        except (ConnectionResetError, TimeoutError):
            pass  # the viewer has left, or does not read
        finally:
            self._viewers -= 1
        return answer


def _file(name: str, kind: str) -> Callable[[web.Request], Any]:
    text = (Path(__file__).parent / name).read_text()

    async def give(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers=HEADERS)

    return give


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the status page has stopped", exc_info=task.exception())
