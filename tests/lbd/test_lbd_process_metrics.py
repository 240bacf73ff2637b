"""What the daemon's own bounds drop is counted, and a scrape tells it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo
from lbd_client import ask
from lbd_supervised import supervised
from lbd_waiting import until

from lbd.channel import MESSAGE_BYTES, PENDING_BYTES, Channel
from lbd.http import CONNECTIONS
from lbd.supervisor import Supervisor
from lbd.text_format import TextExposition

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


def total(text: str, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", text, re.M)
    assert found is not None, name
    return int(found[1])


def fetched(address: str, name: str) -> int:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        return total(answer.read().decode(), name)


def scraped(supervisor: Supervisor, name: str) -> int:
    out = TextExposition()
    supervisor.scrape(out)
    return total(out.body().decode(), name)


def test_lines_that_cannot_be_written_are_counted(daemon: Start, backend: Make) -> None:
    """A full disk: the supervisor's events are lost there, and the workers' lines of flows."""
    # So few connections that no worker has a word to say of its descriptors.
    service, other = (
        ld.service([backend(echo).address], flow_log={"format": "json"}, max_connections=100)
        for _ in range(2)
    )
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, other, workers=2, metrics=metrics, log={"file": "/dev/full"})
    name = "lbd_process_log_drops_total"
    # That it is ready, and no word of what was lost.
    until(lambda: fetched(metrics, name) == 1, "the supervisor's event counted")
    for _ in range(5):
        ask(service)
        ask(other)
    until(lambda: fetched(metrics, name) == 11, "the workers' lines counted")
    # What a worker had counted outlives it; the supervisor's word of its end is lost too.
    os.kill(one.workers()[0], signal.SIGKILL)
    until(lambda: fetched(metrics, "lbd_worker_restarts_total") == 1, "the restart counted")
    until(lambda: fetched(metrics, name) >= 12, "nothing forgotten")


def test_who_only_holds_connections_holds_up_nobody(daemon: Start, backend: Make) -> None:
    """More of them than the daemon has descriptors: it starts a worker again all the same."""
    service = ld.service([backend(echo).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    host, port = metrics.split(":")
    most = 256

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    one = daemon(service, metrics=metrics, preexec_fn=few)
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection((host, int(port)), 60))
            for _ in range(most)
        ]
        for sock in held[CONNECTIONS:]:
            assert sock.recv(1) == b""
        (before,) = one.workers()
        os.kill(before, signal.SIGKILL)
        until(lambda: set(one.workers()) - {before}, "another worker")
        assert ask(service) == b"ping"
        # Those that were let in are closed for saying nothing.
        for sock in held[:CONNECTIONS]:
            sock.settimeout(60)
            assert sock.recv(1) == b""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    name = "lbd_process_http_refused_total"
    assert f'{name}{{reason="full"}} {most - CONNECTIONS}\n' in text
    assert f'{name}{{reason="silent"}} {CONNECTIONS}\n' in text


@pytest.fixture
async def line() -> AsyncIterator[Channel]:
    """A channel whose other end nobody reads."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = Channel(lambda message: None, lambda: None)
    await asyncio.get_running_loop().create_connection(lambda: channel, sock=ours)
    yield channel
    channel.close()
    theirs.close()


async def test_what_a_line_does_not_take_is_counted(line: Channel) -> None:
    assert not line.send({"text": "x" * MESSAGE_BYTES})
    assert line.dropped_total == 1
    large = {"text": "x" * (MESSAGE_BYTES // 2)}
    sent = 0
    while line.send(large):
        sent += 1
    assert PENDING_BYTES < sent * MESSAGE_BYTES // 2 + MESSAGE_BYTES
    assert line.dropped_total == 2
    line.close()
    await asyncio.sleep(0)
    assert not line.send({})
    assert line.dropped_total == 3


async def test_messages_to_workers_that_are_dropped_are_told(backend: Make) -> None:
    service = ld.service([backend(echo).address])
    name = "lbd_process_message_drops_total"
    async with supervised(service) as supervisor:
        assert scraped(supervisor, name) == 0
        (worker,) = supervisor.fleet.workers.values()
        assert await worker.ask({"order": "flows", "text": "x" * MESSAGE_BYTES}) is None
        assert scraped(supervisor, name) == 1
        # The workers are replaced: what those before them did not get stays counted.
        former = supervisor.fleet
        await supervisor.edit(lambda config: config.model_copy(update={"workers": 2}))
        await former.gone()
        assert scraped(supervisor, name) == 1
