"""Scenario 1: reload after reload under a storm of new connections: none refused, none reset."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from conversation import talking
from lbd_backends import Backend, echo
from lbd_waiting import until

from config.address import Address
from testbed.bench.relay import start_server
from testbed.processes import Children, free_ports

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
TALKERS = 10
EXCHANGE_EVERY = 10
"""Reloads from one that exchanges the workers to the next; the others change a weight in place."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of an nginx that closes each connection after its answer."""
    for name in ("nginx", "wrk"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    (port,) = free_ports(1)
    with Children() as children:
        start_server(tmp_path, children, port)
        yield f"127.0.0.1:{port}"


class Storm:
    """wrk, one new connection a request, again and again until it is told to stop."""

    def __init__(self, service: dict[str, Any]) -> None:
        address = Address.parse(service["listen"])
        self._url = f"http://{address.host}:{address.port}/"
        self._over = threading.Event()
        self.connections = self.errors = 0
        self.took_s = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        argv = ["wrk", "-t1", "-c64", "-d2s", "--timeout", "30s", "-H", "Connection: close"]
        while not self._over.is_set():
            started_s = time.monotonic()
            said = subprocess.run(
                [*argv, self._url], capture_output=True, text=True, check=True, timeout=60
            ).stdout
            self.took_s += time.monotonic() - started_s
            found = re.search(r"(\d+) requests in", said)
            assert found is not None, said
            self.connections += int(found[1])
            for line in re.findall(r"(?:Socket errors|Non-2xx or 3xx responses): (.*)", said):
                self.errors += sum(map(int, re.findall(r"\d+", line)))

    def close(self) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize(
    "reloads", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_reloads_under_a_storm_of_new_connections(
    daemon: Start, backend: Make, web: str, capsys: pytest.CaptureFixture[str], reloads: int
) -> None:
    """Beside them connections that were there before the first reload talk to the end."""
    stormy = ld.service([web])
    # Workers that are replaced end after this time what is still open.
    calm = ld.service([backend(echo).address], timeouts={"drain_s": 900.0})
    one = daemon(stormy, calm, workers=2)

    def reload(number: int) -> None:
        stormy["backends"][0]["weight"] = 2.0 + number
        # Any other number makes new workers; they take over the sockets of the old ones.
        workers = 2 + number // EXCHANGE_EVERY % 2
        config = {"workers": workers, "services": [stormy, calm]}
        one.path.write_text(yaml.safe_dump(config, sort_keys=False))
        before = one.log.count("reloaded")
        one.send(signal.SIGHUP)
        until(lambda: one.log.count("reloaded") > before, "reloaded")

    async def talk_through() -> Any:
        async with talking(calm, TALKERS) as talk:
            await asyncio.to_thread(until, lambda: talk.answers > 50, "clients talking")
            with contextlib.closing(Storm(stormy)) as storm:
                for number in range(reloads):
                    seen = talk.answers
                    await asyncio.to_thread(reload, number)
                    await asyncio.to_thread(
                        until, lambda s=seen: talk.answers > s + 20, "clients talking on"
                    )
        return talk, storm

    talk, storm = asyncio.run(talk_through())
    with capsys.disabled():
        print(
            f"\n[{reloads} reloads: {storm.connections} connections, "
            f"{storm.connections / storm.took_s:.0f} a second, {storm.errors} errors; "
            f"beside them {talk}]"
        )
    assert storm.connections > 0
    assert storm.errors == 0
    assert talk.connections == TALKERS
    assert talk.refused == talk.broken == talk.wrong == talk.unanswered == 0
    assert "not reloaded" not in one.log
    one.count = 2 + (reloads - 1) // EXCHANGE_EVERY % 2
    until(lambda: len(one.workers()) == one.count, "the former workers gone")
    assert one.stop() == 0
