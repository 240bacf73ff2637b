"""The status page: what it is told, how it is told, and what a browser makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from time import monotonic_ns
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from lbd_backends import Backend, close_at_once, echo
from lbd_browser import open_page
from lbd_client import FakeAgent, ask, connect
from lbd_waiting import until

from lbd.status.page import VIEWERS
from lbd.status.state import Changes
from shm.layout import AGENT_MODES

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


# -- what has changed


def state() -> dict[str, Any]:
    backends = [{"name": name, "state": "up", "failures_total": 0} for name in ("a", "b")]
    service = {
        "name": "web",
        "policy": "sed",
        "weights": "agent",
        "agent": {"up": True},
        "refused_frames_total": 0,
        "backends": backends,
    }
    return {"restarts_total": 0, "services": [service]}


def changes_between(*states: dict[str, Any]) -> list[list[str]]:
    changes = Changes()
    return [changes.since_last(one) for one in states]


def test_the_first_state_and_one_that_stays_are_no_events() -> None:
    assert changes_between(state(), state(), state()) == [[], [], []]


def test_every_change_is_told_once() -> None:
    after = deepcopy(state())
    after["restarts_total"] = 2
    service = after["services"][0]
    service["agent"]["up"] = False
    service.update(weights="none", policy="ewma", refused_frames_total=3)
    service["backends"][0]["state"] = "ejected"
    service["backends"][1]["name"] = "c"
    after["services"].append({**deepcopy(service), "name": "mail"})
    first, second, third = changes_between(state(), after, after)
    assert first == third == []
    assert second == [
        "2 workers ended and started again",
        "web: the agent has gone",
        "web: no fresh weights, ewma chooses",
        "web: weights of the agent's refused",
        "web/a: up, now ejected",
        "web/c: added",
        "web/b: removed",
        "mail: added",
    ]
    assert changes_between(after, state())[1][-1] == "mail: removed"


def test_a_backend_that_goes_on_failing_is_told_once_until_it_has_stopped() -> None:
    def failed(total: int) -> dict[str, Any]:
        one = deepcopy(state())
        one["services"][0]["backends"][0]["failures_total"] = total
        return one

    told = changes_between(*map(failed, (0, 5, 9, 9, 10)))
    assert told == [[], ["web/a: fails"], [], [], ["web/a: fails"]]


# -- the stream


class Viewer:
    """A browser's side of the stream, without the browser."""

    def __init__(self, address: str) -> None:
        self._answer = urllib.request.urlopen(f"http://{address}/stream", timeout=60)
        assert self._answer.headers["Content-Type"] == "text/event-stream"

    def next(self) -> dict[str, Any]:
        line = self._answer.readline()
        assert line.startswith(b"data: "), line
        assert self._answer.readline() == b"\n"
        found: dict[str, Any] = json.loads(line[6:])
        return found

    def close(self) -> None:
        self._answer.close()


@pytest.fixture
def view() -> Iterator[Callable[[str], Viewer]]:
    opened: list[Viewer] = []

    def start(address: str) -> Viewer:
        opened.append(Viewer(address))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_off_means_that_there_is_no_page(daemon: Start, backend: Make) -> None:
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(ld.service([backend(echo).address]), metrics=metrics)
    for path in ("/", "/stream"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{metrics}{path}", timeout=60)
        refused.value.close()
        assert refused.value.code == 404


def test_a_reload_turns_it_on_and_off_on_the_same_port(daemon: Start, backend: Make) -> None:
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(ld.service([backend(echo).address]), metrics=metrics)
    config = yaml.safe_load(one.path.read_text())

    def page() -> int:
        """Never refused: the port goes from one server to the next."""
        try:
            with urllib.request.urlopen(f"http://{metrics}/", timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    for on, status in ((True, 200), (False, 404)):
        one.path.write_text(yaml.safe_dump({**config, "status_page": on}))
        one.send(signal.SIGHUP)
        until(lambda status=status: page() == status, f"the page answers {status}")


def test_the_stream_tells_the_state_and_what_happened_also_to_who_comes_late(
    daemon: Start, backend: Make, view: Callable[[str], Viewer]
) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], weights="agent")
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, metrics=metrics, status_page=True)
    viewer = view(metrics)
    name = service["name"]
    texts: list[str] = []

    def told(text: str) -> dict[str, Any]:
        """The state with which an event came."""
        while True:
            seen = viewer.next()
            texts.extend(event["text"] for event in seen["events"])
            if text in texts:
                return seen

    for _ in range(4):
        ask(service)
    agent = FakeAgent(name)
    agent.give(3.0, 1.0)
    seen = told(f"{name}: sed chooses by the agent's weights")["services"][0]
    assert seen["agent"]["up"]
    assert seen["listen"] == service["listen"]
    assert [b["weight"] for b in seen["backends"]] == [3.0, 1.0]
    assert sum(b["flows_total"] for b in seen["backends"]) == 4
    for word, mode in (*AGENT_MODES.items(), (99, None)):
        agent.block.set("mode", word)
        until(
            lambda mode=mode: viewer.next()["services"][0]["agent"]["mode"] == mode,
            f"the mode {mode}",
        )
    agent.close()
    told(f"{name}: the agent has gone")
    os.kill(one.workers()[0], signal.SIGKILL)
    assert told("1 worker ended and started again")["restarts_total"] == 1
    late = view(metrics).next()
    assert [event["text"] for event in late["events"]][: len(texts)] == texts


def test_a_backend_that_fails_is_told(
    daemon: Start, backend: Make, view: Callable[[str], Viewer]
) -> None:
    service = ld.service([backend(close_at_once).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(service, metrics=metrics, status_page=True)
    viewer = view(metrics)
    viewer.next()
    with connect(service) as client:
        client.recv(1)
    until(
        lambda: [e["text"] for e in viewer.next()["events"]] == [f"{service['name']}/b0: fails"],
        "the failure told",
    )


def test_viewers_are_bounded_and_who_leaves_makes_room(
    daemon: Start, backend: Make, view: Callable[[str], Viewer]
) -> None:
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(ld.service([backend(echo).address]), metrics=metrics, status_page=True)
    viewers = [view(metrics) for _ in range(VIEWERS)]
    for viewer in viewers:
        viewer.next()
    with pytest.raises(urllib.error.HTTPError) as refused:
        view(metrics)
    refused.value.close()
    assert refused.value.code == 503
    until(lambda: viewers[0].next()["viewers_refused_total"] == 1, "the refusal counted")
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as scrape:
        assert "\nlbd_process_viewers_refused_total 1\n" in scrape.read().decode()
    viewers[1].close()
    until(lambda: viewers[0].next()["viewers"] == VIEWERS - 1, "a viewer gone")
    view(metrics).next()
    # The viewers do not keep the daemon from leaving.
    assert one.stop() == 0


# -- readiness


def ready(address: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_ready_while_a_worker_serves_and_not_while_draining(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, metrics=metrics)
    assert ready(metrics) == 200
    with connect(service) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        one.send(signal.SIGQUIT)
        until(lambda: ready(metrics) == 503, "draining told")
    assert one.wait() == 0


# -- in a browser


@pytest.fixture
def chromium(debian_tool: Callable[[str], str]) -> str:
    return debian_tool("chromium")


async def test_a_browser_shows_it_live_in_light_and_dark_and_on_a_phone(
    daemon: Start, backend: Make, chromium: str, tmp_path: Path
) -> None:
    service = ld.service([backend(echo).address for _ in range(3)], weights="agent")
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, metrics=metrics, status_page=True)
    agent = FakeAgent(service["name"])
    agent.block.set("mode", 2)
    stop = threading.Event()

    def carry() -> None:
        while not stop.is_set():
            agent.give(2.0, 1.0, 0.5)
            agent.block.beat(monotonic_ns())
            # The worker that is killed below takes its flows with it.
            with contextlib.suppress(ConnectionError):
                ask(service)

    traffic = threading.Thread(target=carry)
    traffic.start()
    try:
        async with open_page(chromium, f"http://{metrics}/", tmp_path) as page:
            await page.until("document.querySelectorAll('tbody tr').length == 3")
            await page.until("document.querySelector('.rate').textContent != '0'")
            text = await page.evaluate("document.body.innerText")
            for expected in (service["name"], service["listen"], "b2", "2 of 2 workers"):
                assert expected in text
            await page.until("document.querySelector('.agent').textContent == 'agent frozen'")
            await page.until("document.querySelectorAll('tbody .weight')[2].textContent == '0.500'")
            backgrounds = set()
            for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light")):
                await page.look_like(width, 900, scheme, mobile=width < 500)
                # Nothing sticks out at the side.
                await page.until(f"document.documentElement.scrollWidth <= {width}")
                backgrounds.add(
                    await page.evaluate("getComputedStyle(document.body).backgroundColor")
                )
                # Nor is anything hidden, at any width.
                assert await page.evaluate(
                    "[...document.querySelectorAll('tbody td')].every(e => e.offsetWidth > 0)"
                )
            assert len(backgrounds) == 2
            os.kill(one.workers()[0], signal.SIGKILL)
            await page.until("document.querySelector('#events').innerText.includes('1 worker')")
            assert page.errors == []
            assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {
                metrics
            }
            stop.set()
            await asyncio.to_thread(traffic.join)
            await asyncio.to_thread(one.stop)
            await page.until("document.querySelector('#summary').className.includes('bad')")
    finally:
        stop.set()
        traffic.join()
        agent.close()
