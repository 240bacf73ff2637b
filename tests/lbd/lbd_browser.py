"""A headless Chromium, driven over its debugging protocol.

Lives here: start, look, end. Never here: assertions. It uses no network but loopback, has a profile
of its own below the test's folder, and leads a process group that ends with the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--remote-debugging-port=0"
).split()
START_S = 60.0


class Page:
    """One tab. `errors` are what its scripts threw and what its console was told as an error."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            elif told["method"] in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(str(told["params"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._answers[number], START_S)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    async def evaluate(self, expression: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, expression: str, deadline_s: float = START_S) -> None:
        """Wait until a JavaScript expression is true."""
        end_s = asyncio.get_running_loop().time() + deadline_s
        while not await self.evaluate(expression):
            assert asyncio.get_running_loop().time() < end_s, (
                f"not within {deadline_s:g} s: {expression}; the page: "
                f"{await self.evaluate('document.body.innerText')}; errors: {self.errors}"
            )
            await asyncio.sleep(0.05)

    async def look_like(self, width: int, height: int, scheme: str, mobile: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])


@asynccontextmanager
async def open_page(chromium: str, url: str, folder: Path) -> AsyncIterator[Page]:
    """A tab at `url`."""
    profile = folder / "profile"
    process = await asyncio.create_subprocess_exec(
        chromium,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            debugger = await _first_tab(session, f"http://127.0.0.1:{port}/json/list")
            async with session.ws_connect(debugger, max_msg_size=0) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                await page.call("Page.navigate", url=url)
                yield page
                listening.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _first_tab(session: aiohttp.ClientSession, url: str) -> str:
    """Its debugger's address; the browser speaks before it has a tab."""
    end_s = asyncio.get_running_loop().time() + START_S
    while True:
        async with session.get(url) as answer:
            for one in await answer.json():
                if one["type"] == "page":
                    return str(one["webSocketDebuggerUrl"])
        assert asyncio.get_running_loop().time() < end_s, "Chromium opens no tab"
        await asyncio.sleep(0.05)


async def _port(told_in: Path) -> int:
    end_s = asyncio.get_running_loop().time() + START_S
    while True:
        port = _first_line(told_in)
        if port:
            return int(port)
        assert asyncio.get_running_loop().time() < end_s, "Chromium does not start"
        await asyncio.sleep(0.05)


def _first_line(path: Path) -> str:
    """Empty while it is not there, or not whole."""
    text = path.read_text() if path.exists() else ""
    return text.partition("\n")[0] if "\n" in text else ""
