"""`lbctl top`: what the screen shows is what the daemon does, on keys and on a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo
from lbd_client import FakeAgent, ask
from lbd_waiting import DEADLINE_S, until
from textual.pilot import Pilot
from textual.widgets import DataTable, Sparkline, Static

from lbctl.client import Client
from lbctl.top import Look, Top, per_second

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
def api(daemon: Start, path: Path) -> Start:
    """A daemon with the API, and metrics for its histograms."""

    def start(*services: dict[str, Any], **settings: Any) -> ld.Daemon:
        metrics = f"127.0.0.1:{ld.free_port()}"
        return daemon(*services, metrics=metrics, api={"listen": f"unix:{path}"}, **settings)

    return start


@asynccontextmanager
async def top(path: Path) -> AsyncIterator[Pilot[None]]:
    client = Client(str(path))
    app = Top(lambda: Look.take(client), 0.05)
    async with app.run_test(size=(150, 40)) as pilot:
        yield pilot


async def shows(pilot: Pilot[None], look: Callable[[], object], what: str) -> None:
    end_s = asyncio.get_running_loop().time() + DEADLINE_S
    while not look():
        assert asyncio.get_running_loop().time() < end_s, f"{what}; tables: {cells(pilot)}"
        await pilot.pause(0.02)


def cells(pilot: Pilot[None]) -> dict[str, list[dict[str, str]]]:
    """The rows of both tables, by column."""
    return {
        name: [
            {
                column.key.value or "": str(cell)
                for column, cell in zip(table.ordered_columns, table.get_row(row.key), strict=True)
            }
            for row in table.ordered_rows
        ]
        for name in ("services", "backends")
        for table in [pilot.app.query_one(f"#{name}", DataTable)]
    }


def backends(pilot: Pilot[None]) -> dict[str, dict[str, str]]:
    return {row["backend"]: row for row in cells(pilot)["backends"]}


def said(pilot: Pilot[None], name: str) -> str:
    return str(pilot.app.query_one(f"#{name}", Static).render())


@contextmanager
def traffic(service: dict[str, Any]) -> Iterator[None]:
    """One client after the other."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            ask(service)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def test_it_shows_the_daemon_live(api: Start, backend: Make, path: Path) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], weights="agent")
    one = api(service, workers=2)
    client = Client(str(path))
    agent = FakeAgent(service["name"])
    agent.give(2.0, 0.5)
    async with top(path) as pilot:
        with traffic(service):
            await shows(
                pilot, lambda: backends(pilot).get("b0", {}).get("weight") == "2", "weights"
            )
            assert backends(pilot)["b1"]["weight"] == "0.5"
            assert backends(pilot)["b1"]["configured"] == "1"
            assert f"pid {one.pid}" in said(pilot, "daemon")
            assert "2 of 2 workers" in said(pilot, "daemon")
            (row,) = cells(pilot)["services"]
            assert (row["service"], row["usable"]) == (service["name"], "2/2")
            trend = pilot.app.query_one("#trend", Sparkline)
            await shows(pilot, lambda: trend.data and max(trend.data) > 0, "a trend")
            await shows(
                pilot,
                lambda: sum(int(row["sessions"]) for row in backends(pilot).values()) > 10,
                "sessions counted",
            )
            await shows(pilot, lambda: backends(pilot)["b0"]["response"].endswith(" ms"), "latency")
        change = ("PATCH", "services", service["name"], "backends", "b1")
        await asyncio.to_thread(client.ask, *change, body={"state": "drain"})
        await shows(
            pilot, lambda: backends(pilot).get("b1*", {}).get("state") == "drain", "a drain"
        )
        remove = ("DELETE", "services", service["name"], "backends", "b1")
        await asyncio.to_thread(client.ask, *remove)
        await shows(pilot, lambda: list(backends(pilot)) == ["b0"], "a backend less")
        agent.close()
        await asyncio.to_thread(one.stop)
        await shows(pilot, lambda: "cannot speak to lbd" in said(pilot, "problem"), "a problem")
        # What was seen last stays.
        assert list(backends(pilot)) == ["b0"]


async def test_keys_choose_sort_pause_and_leave(api: Start, backend: Make, path: Path) -> None:
    first = ld.service([backend(echo).address for _ in range(3)], policy="rr")
    second = ld.service([backend(echo).address])
    api(first, second)
    for _ in range(4):
        ask(first)
    async with top(path) as pilot:
        await shows(pilot, lambda: list(backends(pilot)) == ["b0", "b1", "b2"], "three backends")
        await pilot.press("down")
        await shows(pilot, lambda: list(backends(pilot)) == ["b0"], "the other service's")
        assert said(pilot, "title").startswith(second["name"])
        await pilot.press("up")
        await shows(pilot, lambda: len(backends(pilot)) == 3, "the first one's")
        for order in ("flows", "new/s", "response", "failures"):
            await pilot.press("s")
            assert said(pilot, "title").endswith(f"by {order}")
        dark = pilot.app.current_theme.dark
        await pilot.press("d")
        assert pilot.app.current_theme.dark is not dark
        await pilot.press("p")
        assert said(pilot, "title").endswith("paused")
        await pilot.press("q")
        await shows(pilot, lambda: not pilot.app.is_running, "the end")


async def test_the_longest_queue_comes_first(api: Start, backend: Make, path: Path) -> None:
    service = ld.service([backend(echo).address for _ in range(3)])
    api(service)
    drained = {"state": "drain"}
    client = Client(str(path))
    for name in ("b0", "b1"):
        where = ("PATCH", "services", service["name"], "backends", name)
        await asyncio.to_thread(client.ask, *where, body=drained)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.create_connection(_at(service), 20))
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        async with top(path) as pilot:
            await shows(pilot, lambda: len(backends(pilot)) == 3, "three backends")
            assert list(backends(pilot))[-1] == "b2"
            await pilot.press("s")
            await shows(pilot, lambda: next(iter(backends(pilot))) == "b2", "the busy one first")
            assert backends(pilot)["b2"]["flows"] == "2"


def _at(service: dict[str, Any]) -> tuple[str, int]:
    host, _, port = service["listen"].rpartition(":")
    return host, int(port)


def test_a_counter_that_starts_again_has_no_rate() -> None:
    assert per_second({"n": 30}, {"n": 10}, "n", 2.0) == 10.0
    assert per_second({"n": 3}, {"n": 10}, "n", 2.0) is None
    assert per_second({"n": 3}, None, "n", 2.0) is None
    assert per_second({"n": 3}, {"n": 1}, "n", 0.0) is None


def test_it_runs_on_a_terminal_and_leaves_on_a_key(api: Start, backend: Make, path: Path) -> None:
    service = ld.service([backend(echo).address])
    api(service)
    ours, theirs = pty.openpty()
    seen = bytearray()
    process = subprocess.Popen(
        [sys.executable, "-m", "lbctl", "--socket", str(path), "top", "--interval", "0.05"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ld.ROOT,
        env={**os.environ, "PYTHONPATH": str(ld.ROOT), "TERM": "xterm-256color"},
    )
    os.close(theirs)

    def read() -> None:
        # The kernel says EIO once the other side has gone.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 65536):
                seen.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: service["name"].encode() in seen, "the service on the screen")
        os.write(ours, b"q")
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)


def test_without_textual_it_says_what_is_missing(path: Path) -> None:
    code = (
        "import sys; sys.modules['textual'] = None; sys.modules['textual.app'] = None\n"
        "from lbctl.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, "--socket", str(path), "top"],
        capture_output=True,
        text=True,
        cwd=ld.ROOT,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "lbctl: top needs textual" in ended.stderr
    assert "pip install 'lbd[top]'" in ended.stderr
