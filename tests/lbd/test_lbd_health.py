"""Checks, ejection and feedback of the real daemon, against servers that fall ill and recover."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, close_at_once, echo, hold, reset
from lbd_client import ask, connect, served
from lbd_datagrams import udp_service
from lbd_supervised import told
from lbd_waiting import until

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
QUICK = {"interval_ms": 30, "fast_ms": 15, "timeout_ms": 5000, "rise": 2, "fall": 2}


def in_state(service: dict[str, Any], **wanted: str) -> None:
    until(lambda: ld.states(service["name"]) == wanted, f"{wanted}")


def answering(text: list[bytes]) -> Callable[[socket.socket], None]:
    """A server that reads once and says `text[0]`, whatever that is by then."""

    def script(sock: socket.socket) -> None:
        if sock.recv(4096):
            sock.sendall(text[0])

    return script


# -- active checks


def test_a_backend_that_goes_away_is_down_and_up_again_when_it_is_back(
    daemon: Start, backend: Make
) -> None:
    port = ld.free_port()
    first = backend(echo, bind=("127.0.0.1", port))
    service = ld.service(
        [first.address, backend(echo).address],
        policy="rr",
        retry={"others": 0},
        health={"check": QUICK, "passive": None},
    )
    daemon(service, workers=2)
    until(lambda: ld.state_word(service["name"], "b0", "checks_total") > 3, "checks made")
    assert ld.states(service["name"]) == {"b0": "up", "b1": "up"}
    first.close()
    in_state(service, b0="down", b1="up")
    until(lambda: ld.usable(service["name"]) == {"b1"}, "only b1 usable")
    told(service["name"])
    before = ld.totals(service["name"])["flows_total"]
    for _ in range(10):
        assert ask(service) == b"ping"
    found = served(service["name"], before + 10)
    assert found["connect_failed_total"] == 0
    assert ld.state_word(service["name"], "b0", "downs_total") == 1
    assert ld.state_word(service["name"], "b0", "checks_failed_total") >= 2
    backend(echo, bind=("127.0.0.1", port))
    in_state(service, b0="up", b1="up")


def test_an_http_status_decides(daemon: Start, backend: Make) -> None:
    said = [b"HTTP/1.1 200 OK\r\n\r\n"]
    asked: list[bytes] = []

    def script(sock: socket.socket) -> None:
        asked.append(sock.recv(4096))
        sock.sendall(said[0])

    check = {**QUICK, "kind": "http", "path": "/healthz", "host": "shop.example"}
    service = ld.service([backend(script).address, backend(echo).address], health={"check": check})
    # What b1 echoes is no HTTP.
    daemon(service)
    in_state(service, b0="up", b1="down")
    assert asked[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: shop.example\r\n")
    for text, state in (
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "down"),
        (b"HTTP/1.0 302 Found\r\n\r\n", "up"),
        (b"SSH-2.0-OpenSSH_9\r\n", "down"),
        (b"HTTP/1.1 204 \r\n\r\n", "up"),
    ):
        said[0] = text
        in_state(service, b0=state, b1="down")


def test_an_expected_answer_decides_also_when_it_comes_in_pieces(
    daemon: Start, backend: Make
) -> None:
    pieces = [[b"+PO", b"NG\r\n"]]

    def script(sock: socket.socket) -> None:
        if sock.recv(4096) == b"PING\r\n":
            for piece in pieces[0]:
                sock.sendall(piece)
            sock.recv(1)

    check = {**QUICK, "kind": "expect", "send": "PING\r\n", "expect": r"^\+PONG\r"}
    check["timeout_ms"] = 100
    service = ld.service([backend(script).address], health={"check": check})
    daemon(service)
    until(lambda: ld.state_word(service["name"], "b0", "checks_total") > 3, "checks made")
    in_state(service, b0="up")
    pieces[0] = [b"-ERR loading\r\n"]
    in_state(service, b0="down")


def test_checks_have_their_own_port_and_source(daemon: Start, backend: Make) -> None:
    seen: list[str] = []

    def script(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            seen.append(sock.getpeername()[0])

    checked = backend(script)
    check = {**QUICK, "port": checked.sockaddr[1], "source": "127.0.0.77"}
    service = ld.service([backend(echo).address], health={"check": check})
    daemon(service)
    until(lambda: len(seen) > 3, "checks made")
    assert set(seen) == {"127.0.0.77"}
    assert ask(service) == b"ping"
    checked.close()
    in_state(service, b0="down")


def test_a_check_that_this_machine_cannot_make_says_nothing_of_the_backend(
    daemon: Start, backend: Make
) -> None:
    """Out of ports, or of descriptors: nobody goes down for that. Here an address is missing."""
    check = {"interval_ms": 20, "fall": 1, "source": "192.0.2.77"}
    service = ld.service([backend(echo).address], health={"check": check})
    one = daemon(service)
    name = service["name"]
    until(lambda: ld.state_word(name, "b0", "checks_undone_total") > 5, "some attempts")
    assert ld.state_word(name, "b0", "checks_failed_total") == 0
    assert ld.states(name) == {"b0": "up"}
    assert one.log.count("cannot be checked from here") == 1


def test_a_unix_socket_is_checked(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "backend")
    one = backend(echo, family=socket.AF_UNIX, bind=path)
    service = ld.service([one.address], health={"check": QUICK})
    daemon(service)
    until(lambda: ld.state_word(service["name"], "b0", "checks_total") > 3, "checks made")
    assert ld.states(service["name"]) == {"b0": "up"}
    one.close()
    in_state(service, b0="down")


def test_a_host_header_has_an_ipv6_address_in_brackets(daemon: Start, backend: Make) -> None:
    asked: list[bytes] = []

    def script(sock: socket.socket) -> None:
        asked.append(sock.recv(4096))
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    one = backend(script, family=socket.AF_INET6)
    daemon(ld.service([one.address], health={"check": {**QUICK, "kind": "http"}}))
    until(lambda: asked, "a check")
    assert b"\r\nHost: [::1]\r\n" in asked[0]


@pytest.mark.parametrize("version", [1, 2])
def test_a_check_may_begin_with_a_proxy_header(daemon: Start, backend: Make, version: int) -> None:
    """Before a balancer that demands one: without it all checks would fail."""
    inner = backend(answering([b"HTTP/1.1 200 OK\r\n\r\n"]))
    demanding = ld.service([inner.address], proxy_in={"trust": ["127.0.0.1"]})
    check = {**QUICK, "kind": "http", "fall": 1}
    services = [
        ld.service([demanding["listen"]], health={"check": {**check, "proxy": proxy}})
        for proxy in (version, None)
    ]
    daemon(demanding)
    daemon(*services)
    for service, state in zip(services, ("up", "down"), strict=True):
        until(lambda n=service["name"]: ld.state_word(n, "b0", "checks_total") > 3, "checks made")
        in_state(service, b0=state)


def test_datagram_servers_are_checked_and_asked_at_ports_of_their_own(
    daemon: Start, backend: Make
) -> None:
    """Two servers of datagrams on one host: what is beside them answers for both."""
    beside = backend(echo)
    feedback = {"port": backend(lambda sock: sock.sendall(b"40%\n")).sockaddr[1]}
    service = udp_service(
        [f"udp:127.0.0.1:{ld.free_port()}" for _ in range(2)],
        health={
            "check": {**QUICK, "port": beside.sockaddr[1]},
            "feedback": {**feedback, "interval_ms": 30},
        },
    )
    name = service["name"]
    daemon(service)
    until(lambda: ld.state_word(name, "b1", "checks_total") > 3, "checks made")
    assert ld.states(name) == {"b0": "up", "b1": "up"}
    until(lambda: ld.share(name, "b0") == ld.share(name, "b1") == 0.4, "what they said")
    beside.close()
    in_state(service, b0="down", b1="down")


def test_in_transition_checks_come_fast(daemon: Start, backend: Make) -> None:
    """Two seconds apart while all is well: four more failures come in less than half the time."""
    said = [b"HTTP/1.1 200 OK\r\n\r\n"]
    failing_s: list[float] = []

    def script(sock: socket.socket) -> None:
        sock.recv(4096)
        if said[0] == b"":
            failing_s.append(time.monotonic())
        sock.sendall(said[0])

    check = {**QUICK, "kind": "http", "interval_ms": 2000, "fast_ms": 10, "fall": 5}
    service = ld.service([backend(script).address], health={"check": check})
    daemon(service)
    until(lambda: ld.state_word(service["name"], "b0", "checks_total") >= 1, "a check")
    said[0] = b""
    in_state(service, b0="down")
    assert failing_s[4] - failing_s[0] < 4.0


def test_flows_of_a_backend_that_went_down_are_ended_where_that_is_wanted(
    daemon: Start, backend: Make
) -> None:
    checked = {kind: backend(close_at_once) for kind in ("reset", "keep")}
    services = {
        kind: ld.service(
            [backend(echo).address, backend(echo).address],
            policy="maglev",
            health={"check": {**QUICK, "port": checked[kind].sockaddr[1]}, "on_down": kind},
        )
        for kind in checked
    }
    daemon(*services.values())
    with connect(services["reset"]) as ended, connect(services["keep"]) as kept:
        for sock in (ended, kept):
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
        for one in checked.values():
            one.close()
        for service in services.values():
            in_state(service, b0="down", b1="down")
        with pytest.raises(ConnectionResetError):
            ended.recv(1)
        kept.sendall(b"b")
        assert kept.recv(1) == b"b"
    assert served(services["reset"]["name"], 1)["withdrawn_total"] == 1
    # All are down, so all are used.
    assert ask(services["keep"]) == b"ping"


# -- passive detection


@pytest.mark.parametrize("fault", ["refuses", "resets", "closes", "hangs"])
def test_a_backend_that_fails_its_flows_is_ejected(
    daemon: Start, backend: Make, fault: str
) -> None:
    script = {"resets": reset, "closes": close_at_once, "hangs": hold}.get(fault)
    address = backend(script).address if script else f"127.0.0.1:{ld.free_port()}"
    service = ld.service(
        [address, backend(echo).address],
        policy="rr",
        retry={"others": 0},
        # Who hangs is found out by it; b1 answers sooner, however slow this machine.
        timeouts={"idle_s": 2.0 if fault == "hangs" else 60.0},
        health={"passive": {"failures": 3, "eject_s": 600}},
    )
    daemon(service)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            with contextlib.suppress(ConnectionResetError):
                sock = stack.enter_context(connect(service))
                sock.sendall(b"x")
        in_state(service, b0="ejected", b1="up")
    assert ld.state_word(service["name"], "b0", "ejections_total") == 1
    told(service["name"])
    before = ld.totals(service["name"])
    for _ in range(10):
        assert ask(service) == b"ping"
    after = served(service["name"], before["flows_total"] + 10)
    assert after["unanswered_total"] == before["unanswered_total"]


def test_an_ejected_backend_is_tried_again_and_stays_where_it_does_well(
    daemon: Start, backend: Make
) -> None:
    port = ld.free_port()
    service = ld.service(
        [f"127.0.0.1:{port}", backend(echo).address],
        policy="rr",
        health={"passive": {"failures": 2, "eject_s": 0.2, "eject_max_s": 0.4}},
    )
    daemon(service)

    def told(word: str, count: int) -> bool:
        ask(service)
        return ld.state_word(service["name"], "b0", word) >= count

    # Flows move on to b1: no client ever sees it.
    until(lambda: told("ejections_total", 3), "three ejections")
    backend(echo, bind=("127.0.0.1", port))
    until(lambda: ld.usable(service["name"]) == {"b0", "b1"}, "b0 back")
    with ld.attached(service["name"]) as region:
        seen = ld.Reader(region)
        until(
            lambda: ask(service) == b"ping" and seen.snapshot(0).totals["completed_total"][0] > 3,
            "b0 at work",
        )
    assert ld.states(service["name"])["b0"] == "up"


def test_where_all_fail_no_more_than_the_share_is_ejected(daemon: Start) -> None:
    addresses = [f"127.0.0.1:{port}" for port in (1, 2, 3, 4)]
    service = ld.service(
        addresses,
        policy="rr",
        retry={"others": 0},
        health={"passive": {"failures": 2, "eject_s": 600, "max_ejected": 0.5}},
    )
    daemon(service)

    def refused_one() -> bool:
        with contextlib.suppress(ConnectionResetError), connect(service) as sock:
            sock.recv(1)
        return any(
            ld.state_word(service["name"], f"b{i}", "ejections_refused_total") for i in range(4)
        )

    until(refused_one, "an ejection refused")
    assert sorted(ld.states(service["name"]).values()) == ["ejected", "ejected", "up", "up"]


def test_where_nearly_all_are_found_ill_all_are_used_and_that_is_told(
    daemon: Start, backend: Make
) -> None:
    """The checks' port is the wrong one, the backends are well."""
    check = {"interval_ms": 20, "port": 1}
    service = ld.service(
        [backend(echo).address, backend(echo).address],
        policy="rr",
        health={"check": check, "panic_below": 0.5},
    )
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(service, metrics=metrics)

    def panic() -> str:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as page:
            lines = page.read().decode().splitlines()
        return next(line[-1] for line in lines if line.startswith("lbd_frontend_panic{"))

    in_state(service, b0="down", b1="down")
    until(lambda: panic() == "1", "a panic")
    assert ld.usable(service["name"]) == {"b0", "b1"}
    assert [ask(service) for _ in range(4)] == [b"ping"] * 4


# -- feedback


@pytest.fixture
def agent_says(backend: Make) -> tuple[list[bytes], int]:
    """(what a server's agent says, its port)."""
    said = [b"up\n"]

    def script(sock: socket.socket) -> None:
        sock.sendall(said[0])

    return said, backend(script).sockaddr[1]


def test_a_server_may_speak_for_itself(
    daemon: Start, backend: Make, agent_says: tuple[list[bytes], int]
) -> None:
    said, port = agent_says
    service = ld.service(
        [backend(echo).address],
        health={"feedback": {"port": port, "interval_ms": 20}, "panic_below": 0.0},
    )
    name = service["name"]
    daemon(service)
    for text, state in (
        (b"drain\n", "drain"),
        (b"ready\n", "up"),
        (b"maint # disk swap\n", "maint"),
        (b"ready\n", "up"),
        (b"down#overheated\r\n", "down"),
        (b"up\n", "up"),
        (b"0%\n", "drain"),
        (b"100%\n", "up"),
        (b"stopped", "down"),
        (b"up", "up"),
    ):
        said[0] = text
        in_state(service, b0=state)
        until(lambda s=state: ld.usable(name) == ({"b0"} if s == "up" else set()), text.decode())
    said[0] = b"25% maxconn:3\n"
    until(lambda: ld.share(name, "b0") == 0.25, "its share")
    assert ld.state_word(name, "b0", "feedback_asked_total") > 10
    assert ld.state_word(name, "b0", "feedback_failed_total") == 0
    until(lambda: ld.state_word(name, "b0", "max_flows") == 3, "its limit")
    said[0] = b"100%, maxconn:0\n"
    until(lambda: ld.share(name, "b0") == 1.0, "its full share")
    until(lambda: ld.state_word(name, "b0", "max_flows") == 0, "no limit")


def test_an_agent_that_cannot_be_asked_changes_nothing(daemon: Start, backend: Make) -> None:
    service = ld.service(
        [backend(echo).address], health={"feedback": {"port": 1, "interval_ms": 10}}
    )
    daemon(service)
    with ld.attached(service["name"]) as region:
        beat_ns = region.heartbeat_ns
        until(lambda: region.heartbeat_ns > beat_ns + 300_000_000, "some attempts")
    assert ld.states(service["name"]) == {"b0": "up"}
    assert ld.state_word(service["name"], "b0", "feedback_failed_total") > 0
    assert ask(service) == b"ping"


def test_who_comes_back_starts_slowly(
    daemon: Start, backend: Make, agent_says: tuple[list[bytes], int]
) -> None:
    said, port = agent_says
    service = ld.service(
        [backend(echo).address, backend(echo).address],
        policy="rr",
        health={
            "feedback": {"port": port, "interval_ms": 20},
            "slow_start": {"window_s": 3.0, "floor": 0.05},
        },
    )
    daemon(service)
    in_state(service, b0="up", b1="up")
    assert ld.share(service["name"], "b0") == 1.0
    said[0] = b"drain"
    in_state(service, b0="drain", b1="drain")
    said[0] = b"ready"
    shares: list[float] = []

    def full() -> bool:
        shares.append(ld.share(service["name"], "b0"))
        return ld.states(service["name"]) == {"b0": "up", "b1": "up"} and shares[-1] == 1.0

    in_state(service, b0="slow_start", b1="slow_start")
    until(full, "the full share")
    assert shares == sorted(shares)
    assert len(set(shares)) > 4
    assert shares[0] < 0.5
