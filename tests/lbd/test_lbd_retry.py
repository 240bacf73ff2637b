"""A flow whose backend fails before it took a byte goes on elsewhere, and loses nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo, read_all, read_exactly, reset
from lbd_client import ask, connect, served, settled
from lbd_waiting import until

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
OFF = {"passive": None}


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens, and where nobody else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def blackhole() -> str:
    """A listener whose accept queue is full: connecting to it takes for ever."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        with socket.create_connection(sock.getsockname(), 10):
            yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "blackhole"])
@pytest.mark.parametrize("policy", ["rr", "sed", "ewma", "maglev", "wrr", "p2c", "hcl"])
def test_what_cannot_connect_goes_to_another(
    daemon: Start, backend: Make, request: pytest.FixtureRequest, kind: str, policy: str
) -> None:
    """Half of the backends at first; every client is served, and the accounts close."""
    bad = request.getfixturevalue(kind)
    service = ld.service(
        [bad, backend(echo).address],
        policy=policy,
        health=OFF,
        timeouts={"connect_ms": 60},
        retry={"budget_per_s": 1000.0},
    )
    daemon(service)
    count = 20 if kind == "nobody" else 6
    socks = [connect(service) for _ in range(count)]
    for number, sock in enumerate(socks):
        sock.sendall(b"%03d" % number)
        sock.shutdown(socket.SHUT_WR)
    for number, sock in enumerate(socks):
        assert read_all(sock) == b"%03d" % number
        sock.close()
    found = served(service["name"], count)
    moved = found["redispatched_total"]
    outcome = "connect_failed_total" if kind == "nobody" else "connect_timeout_total"
    assert found["completed_total"] == count
    assert found[outcome] == found["unanswered_total"] == moved
    assert found["waiting"] == 0


def test_a_reset_before_the_client_spoke_loses_nothing(daemon: Start, backend: Make) -> None:
    bad, good = backend(reset), backend(echo)
    service = ld.service([bad.address, good.address], policy="rr", health=OFF)
    daemon(service)
    for _ in range(4):
        with connect(service) as sock:
            until(lambda: ld.snapshot(service["name"]).waiting[1] == 1, "at the one that holds")
            sock.sendall(b"now")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"now"
        until(lambda: ld.totals(service["name"])["flows"] == 0, "the flow over")
    found = served(service["name"], 4)
    assert found["completed_total"] == 4
    assert found["redispatched_total"] == found["backend_reset_total"] >= 1


def test_what_a_backend_has_taken_is_never_sent_twice(daemon: Start, backend: Make) -> None:
    """A reset after the first byte was taken is the client's to know."""
    seen: list[bytes] = []

    def take_and_reset(sock: socket.socket) -> None:
        seen.append(sock.recv(100))
        reset(sock)

    service = ld.service([backend(take_and_reset).address] * 1, health=OFF)
    service["backends"].append({"name": "b1", "address": backend(take_and_reset).address})
    daemon(service)
    with connect(service) as sock:
        sock.sendall(b"once")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    found = settled(service["name"], 1)
    assert seen == [b"once"]
    assert found["backend_reset_total"] == 1
    assert found["redispatched_total"] == 0


def test_an_early_half_close_goes_along(daemon: Start, backend: Make, nobody: str) -> None:
    service = ld.service([nobody, backend(echo).address], policy="rr", health=OFF)
    daemon(service)
    for size in (0, 1, 200_000):
        for _ in range(2):
            body = bytes(range(256)) * (size // 256 + 1)
            with connect(service) as sock:
                sock.sendall(body[:size])
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == body[:size]


@pytest.mark.parametrize("pause_ms", [50, 400])
def test_the_same_backend_is_tried_again_after_a_pause(
    daemon: Start, backend: Make, pause_ms: int
) -> None:
    """A server that restarts: it is back before the client has lost patience. The pause is no
    part of the time that connecting may take."""
    port = ld.free_port()
    service = ld.service(
        [f"127.0.0.1:{port}"],
        health=OFF,
        retry={"same": 10, "others": 0, "pause_ms": pause_ms},
        timeouts={"connect_ms": 200},
    )
    daemon(service)
    with connect(service) as sock:
        sock.sendall(b"hold on")
        until(lambda: ld.totals(service["name"])["retried_total"] > 0, "a second attempt")
        backend(echo, bind=("127.0.0.1", port))
        assert read_exactly(sock, 7) == b"hold on"
    found = served(service["name"], 1)
    assert found["connect_failed_total"] == found["retried_total"] > 0
    assert found["connect_timeout_total"] == 0


def test_attempts_are_bounded_by_the_rule(daemon: Start) -> None:
    with contextlib.ExitStack() as stack:
        nobodies = []
        for _ in range(6):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            nobodies.append(f"127.0.0.1:{sock.getsockname()[1]}")
        service = ld.service(
            nobodies, health=OFF, retry={"same": 1, "others": 2, "pause_ms": 1}, policy="rr"
        )
        daemon(service)
        with contextlib.suppress(ConnectionResetError), connect(service) as client:
            assert client.recv(1) == b""
        found = settled(service["name"], 6)
    assert found["retried_total"] == 3
    assert found["redispatched_total"] == 2
    assert found["connect_failed_total"] == 6


def test_a_budget_stops_a_storm_of_retries(daemon: Start, backend: Make, nobody: str) -> None:
    """Ten flows at most move on in ten seconds where one a second is permitted."""
    service = ld.service(
        [nobody, backend(echo).address],
        policy="rr",
        health=OFF,
        retry={"budget": 0.0, "budget_per_s": 1.0},
    )
    daemon(service)
    answered = 0
    for _ in range(60):
        with contextlib.suppress(ConnectionResetError):
            answered += ask(service) == b"ping"
    found = served(service["name"], 60)
    assert found["redispatched_total"] <= 20  # two windows at most
    assert answered == 30 + found["redispatched_total"]
    assert ld.scalars(service["name"])["retry_refused_total"] == 60 - answered
