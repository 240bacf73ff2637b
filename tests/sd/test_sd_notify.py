"""What a manager hears, on a real socket of the kind that systemd has."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sd.notify import BEATS_A_TIMEOUT, EVERY_S, Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(manager: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode())
        except BlockingIOError:
            return found


def test_state_arrives_line_by_line_and_a_line_stays_one(manager: socket.socket) -> None:
    notifier = Notifier(manager.getsockname())
    notifier.tell(READY=1, STATUS="two\nlines\tof text")
    assert heard(manager) == ["READY=1\nSTATUS=two lines of text"]
    assert notifier.dropped_total == 0


def test_an_abstract_socket_is_reached() -> None:
    name = f"lbd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(60)
        Notifier("@" + name).tell(STOPPING=1)
        assert sock.recv(100) == b"STOPPING=1"


def test_beats_keep_their_pace_and_feed_only_a_watchdog_that_there_is(
    manager: socket.socket,
) -> None:
    quiet, watched = (Notifier(manager.getsockname(), s) for s in (None, 3.0))
    asked: list[int] = []

    def status() -> str:
        asked.append(1)
        return "fine"

    for now_s in (1.0, 1.1, 1.0 + EVERY_S):
        quiet.beat(int(now_s * 1e9), status)
    assert heard(manager) == ["STATUS=fine"] * 2
    assert len(asked) == 2
    for now_s in (1.0, 1.1, 1.0 + 3.0 / BEATS_A_TIMEOUT):
        watched.beat(int(now_s * 1e9), status)
    assert heard(manager) == ["STATUS=fine\nWATCHDOG=1"] * 2


def test_the_environment_is_taken_and_not_left_to_children(manager: socket.socket) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "300000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    notifier = Notifier.of(environ)
    assert environ == {"HOME": "/"}
    notifier.beat(1, lambda: "")
    assert heard(manager) == ["STATUS=\nWATCHDOG=1"]
    notifier.beat(1 + 100_000_000, lambda: "")
    assert len(heard(manager)) == 1


def test_a_watchdog_waits_longer_for_what_takes_longer(manager: socket.socket) -> None:
    quiet, watched = (Notifier(manager.getsockname(), s) for s in (None, 3.0))
    for notifier in (quiet, watched):
        notifier.be_patient(20.0)
        notifier.be_patient(None)
    assert heard(manager) == [
        f"WATCHDOG=1\nWATCHDOG_USEC={wait_us}" for wait_us in (23_000_000, 3_000_000)
    ]


@pytest.mark.parametrize(("timeout_us", "pid"), [("1000000", "1"), ("0", ""), ("soon", "")])
def test_a_watchdog_of_another_process_or_none_is_not_fed(
    manager: socket.socket, timeout_us: str, pid: str
) -> None:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": timeout_us}
    notifier = Notifier.of({**environ, "WATCHDOG_PID": pid})
    notifier.beat(1, lambda: "s")
    assert heard(manager) == ["STATUS=s"]


def test_no_manager_costs_nothing_and_one_that_is_gone_or_deaf_stops_nobody(
    tmp_path: Path,
) -> None:
    nobody = Notifier.of({})
    nobody.tell(READY=1)
    nobody.beat(1, lambda: pytest.fail("asked for a status that nobody reads"))
    assert nobody.dropped_total == 0

    gone = Notifier(str(tmp_path / "gone"))
    gone.tell(READY=1)
    assert gone.dropped_total == 1

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        full = Notifier(deaf.getsockname())
        while not full.dropped_total:
            full.tell(STATUS="x")
