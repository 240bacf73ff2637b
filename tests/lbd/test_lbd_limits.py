"""Affinity, limits and addresses on real sockets: who is let in, who is not, and where from."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, Script, echo, hold, read_all
from lbd_client import ask, connect, settled
from lbd_waiting import until

from config.address import Address
from lbd.wire import proxy_v1
from lbd.wire.endpoint import Endpoint

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]

TRUST = {"trust": ["127.0.0.1"]}


def counted(service: dict[str, Any], counter: str) -> int:
    return ld.scalars(service["name"])[counter]


def from_source(service: dict[str, Any], host: str, data: bytes = b"") -> socket.socket:
    """A connection of a client behind a proxy that we trust."""
    ends = Endpoint(socket.AF_INET, host, 1), Endpoint(socket.AF_INET, "192.0.2.1", 2)
    sock = connect(service)
    sock.sendall(proxy_v1.build(*ends) + data)
    return sock


def answered(sock: socket.socket) -> bytes:
    """The first byte; b"" for a connection that was ended instead."""
    try:
        return sock.recv(1)
    except ConnectionResetError:
        return b""


def attempt(service: dict[str, Any], stack: contextlib.ExitStack) -> bytes:
    """What an echo gives back on a connection that stays open; b"" where it is refused."""
    try:
        sock = stack.enter_context(connect(service))
        sock.sendall(b"x")
    except ConnectionError:
        return b""
    return answered(sock)


def named(name: bytes) -> Script:
    """Says who it is at once, then echoes."""

    def script(sock: socket.socket) -> None:
        sock.sendall(name)
        echo(sock)

    return script


# -- limits a source


def test_a_source_has_so_many_connections_over_all_workers(daemon: Start, backend: Make) -> None:
    service = ld.service(
        [backend(echo).address],
        proxy_in=TRUST,
        limits={"per_source": {"connections": 5, "ipv4_prefix": 24}},
    )
    daemon(service, workers=2)
    with contextlib.ExitStack() as stack:

        def opened(host: str) -> bytes:
            return answered(stack.enter_context(from_source(service, host, b"x")))

        # Two workers that look at once could let in one more.
        ours = [opened(f"192.0.2.{n}") for n in range(12)]
        assert ours == [b"x"] * 5 + [b""] * 7
        assert opened("192.0.3.1") == b"x"
        assert counted(service, "refused_source_connections_total") == 7
    settled(service["name"], 6)
    with from_source(service, "192.0.2.9", b"y") as sock:
        assert answered(sock) == b"y"


def test_a_killed_workers_connections_are_forgotten(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], limits={"per_source": {"connections": 2}})
    one = daemon(service)
    with connect(service) as first, connect(service) as second:
        for sock in (first, second):
            sock.sendall(b"x")
            assert answered(sock) == b"x"
        (pid,) = one.workers()
        ld.os.kill(pid, 9)
        assert answered(first) == b""
    until(lambda: one.workers() not in ([], [pid]), "a successor")
    one.start()
    with connect(service) as sock:
        sock.sendall(b"y")
        assert answered(sock) == b"y"


def test_a_source_makes_so_many_connections_a_window(daemon: Start, backend: Make) -> None:
    service = ld.service(
        [backend(echo).address],
        limits={"per_source": {"new": 10, "window_s": 3600}},
    )
    daemon(service)
    with contextlib.ExitStack() as stack:
        got = [attempt(service, stack) for _ in range(30)]
    # An hour's window may end within the test: then a few more of the next.
    assert 10 <= got.count(b"x") <= 20
    assert counted(service, "refused_source_rate_total") == 30 - got.count(b"x")


# -- idle and slow clients


def test_silent_and_dribbling_clients_are_ended_and_waiting_ones_not(
    daemon: Start, backend: Make
) -> None:
    service = ld.service(
        [backend(hold).address],
        limits={"first_byte_s": 0.5, "slow_client": {"after_s": 0.5, "bytes_per_s": 1000}},
    )
    daemon(service)
    with connect(service) as silent, connect(service) as dribbling, connect(service) as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                dribbling.sendall(b"x")
                time.sleep(0.02)
        assert answered(silent) == b""
        until(lambda: ld.totals(service["name"])["slow_client_total"] == 2, "both ended")
        assert ld.totals(service["name"])["flows"] == 1
        waiting.shutdown(socket.SHUT_WR)
        assert read_all(waiting) == b""


def test_an_idle_flood_leaves_room_for_who_speaks(daemon: Start, backend: Make) -> None:
    """Scenario 11: three times as many silent connections as the service takes."""
    service = ld.service(
        [backend(echo).address],
        max_connections=20,
        limits={"first_byte_s": 0.2, "overload": "wait"},
    )
    daemon(service)
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connect(service))
        assert ask(service) == b"ping"
    assert ld.totals(service["name"])["slow_client_total"] > 20


# -- overload


def test_a_full_service_sheds_the_newest_and_keeps_the_oldest(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], max_connections=3, limits={"overload": "shed"})
    daemon(service)
    with contextlib.ExitStack() as stack:
        oldest = [stack.enter_context(connect(service)) for _ in range(3)]
        for sock in oldest:
            sock.sendall(b"x")
            assert answered(sock) == b"x"
        assert [attempt(service, stack) for _ in range(5)] == [b""] * 5
        for sock in oldest:
            sock.sendall(b"y")
            assert answered(sock) == b"y"
    assert counted(service, "shed_full_total") == 5
    assert counted(service, "accept_paused_total") == 0
    settled(service["name"], 3)
    assert ask(service) == b"ping"


def test_a_process_short_of_descriptors_sheds_before_it_fails(daemon: Start, backend: Make) -> None:
    """Scenario 11: no flow that was taken fails for want of a descriptor."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    service = ld.service([backend(echo).address], limits={"overload": "shed"})
    daemon(service, preexec_fn=few)
    with contextlib.ExitStack() as stack:
        taken = [attempt(service, stack) for _ in range(100)].count(b"x")
    assert 5 < taken < 32
    found = settled(service["name"], taken)
    assert found["local_failed_total"] == 0
    assert counted(service, "shed_descriptors_total") == 100 - taken
    assert counted(service, "accept_failed_total") == 0
    assert ask(service) == b"ping"


# -- affinity


def test_a_source_stays_with_its_backend_whatever_the_policy_says(
    daemon: Start, backend: Make
) -> None:
    names = [b"a", b"b", b"c", b"d"]
    service = ld.service(
        [backend(named(name)).address for name in names],
        policy="rr",
        proxy_in=TRUST,
        stick={"ipv4_prefix": 24},
    )
    daemon(service, workers=2)

    def backend_of(host: str) -> bytes:
        with from_source(service, host) as sock:
            return answered(sock)

    sources = [f"10.0.{n}." for n in range(16)]
    first = {source: backend_of(f"{source}1") for source in sources}
    assert set(first.values()) == set(names)
    for n in range(2, 6):
        assert {source: backend_of(f"{source}{n}") for source in sources} == first
    assert counted(service, "stick_hits_total") == 64


def test_a_source_stays_where_its_flow_went_when_a_backend_failed(
    daemon: Start, backend: Make
) -> None:
    """From the further attempt on, not only from the end of the flow."""
    service = ld.service(
        [backend(named(name)).address for name in (b"a", b"b")] + [f"127.0.0.1:{ld.free_port()}"],
        policy="rr",
        proxy_in=TRUST,
        stick={},
        health={"passive": None},
    )
    daemon(service)

    def redispatched(connected: int) -> int:
        """So far, once so many flows are connected."""
        until(lambda: ld.totals(service["name"])["connected_total"] == connected, "connected")
        return ld.totals(service["name"])["redispatched_total"]

    with contextlib.ExitStack() as stack:
        first = {}
        for n in range(12):
            sock = stack.enter_context(from_source(service, f"10.0.0.{n}"))
            first[n] = answered(sock)
        failed = redispatched(12)
        assert failed > 0
        for n in range(12):
            with from_source(service, f"10.0.0.{n}") as sock:
                assert answered(sock) == first[n]
        assert redispatched(24) == failed
    assert counted(service, "stick_hits_total") == 12


def test_a_remembered_source_expires(daemon: Start, backend: Make) -> None:
    service = ld.service(
        [backend(named(name)).address for name in (b"a", b"b")],
        policy="rr",
        stick={"expiry_s": 0.1},
    )
    daemon(service)
    found = set()

    def both() -> bool:
        with connect(service) as sock:
            found.add(answered(sock))
        time.sleep(0.15)
        return found == {b"a", b"b"}

    until(both, "the other backend")


@pytest.mark.parametrize("policy", ["maglev", "source_hash"])
def test_clients_are_told_apart_by_their_proxied_source(
    daemon: Start, backend: Make, policy: str
) -> None:
    service = ld.service(
        [backend(named(name)).address for name in (b"a", b"b", b"c")],
        policy=policy,
        proxy_in=TRUST,
    )
    daemon(service, workers=2)
    found = {}
    flows = 0
    for n in range(20):
        hosts = [f"10.1.{n}.{n}"] * 3
        got = set()
        for host in hosts:
            with from_source(service, host) as sock:
                got.add(answered(sock))
            # A flow that lingers is load, which source_hash goes by.
            flows += 1
            settled(service["name"], flows)
        assert len(got) == 1
        found[hosts[0]] = got.pop()
    assert set(found.values()) == {b"a", b"b", b"c"}


# -- addresses


@pytest.mark.parametrize("listen", ["v4", "v6", "unix"])
@pytest.mark.parametrize("server", ["v4", "v6", "unix"])
def test_every_kind_of_address_meets_every_other(
    daemon: Start, backend: Make, tmp_path: Path, listen: str, server: str
) -> None:
    at = {
        "v4": f"127.0.0.1:{ld.free_port()}",
        "v6": f"[::1]:{ld.free_port()}",
        "unix": f"unix:{tmp_path / 'listen'}",
    }[listen]
    family = {"v4": socket.AF_INET, "v6": socket.AF_INET6, "unix": socket.AF_UNIX}[server]
    bind = {"bind": str(tmp_path / "server")} if server == "unix" else {}
    service = ld.service([backend(echo, family=family, **bind).address], listen=at)
    daemon(service)
    body = bytes(range(256)) * 1000
    assert ask(service, body) == body
    assert settled(service["name"], 1)["completed_total"] == 1


def test_backends_see_the_source_address_that_was_asked_for(daemon: Start, backend: Make) -> None:
    seen: list[tuple[str, int]] = []

    def note(sock: socket.socket) -> None:
        seen.append(sock.getpeername())
        echo(sock)

    service = ld.service(
        [backend(note).address], source={"address": "127.0.0.9", "interface": "lo"}
    )
    daemon(service)
    for _ in range(3):
        assert ask(service) == b"ping"
    assert [host for host, _ in seen] == ["127.0.0.9"] * 3


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"address": "192.0.2.9"}, "192.0.2.9: Cannot assign requested address"),
        ({"interface": "no-such0"}, "no-such0: No such device"),
    ],
)
def test_a_source_that_this_machine_has_not_is_named(
    launch: Start, source: dict[str, str], why: str
) -> None:
    one = launch(ld.service(["127.0.0.1:1"], source=source))
    assert one.wait() == 1
    assert f"cannot connect from {why}" in one.log


def test_a_dual_stack_host_needs_two_services(daemon: Start, backend: Make) -> None:
    """[::] is IPv6 alone, whatever net.ipv6.bindv6only says; 0.0.0.0 beside it does not clash."""
    port = ld.free_port()
    one = backend(echo)
    services = [ld.service([one.address], listen=f"{host}:{port}") for host in ("0.0.0.0", "[::]")]
    daemon(*services)
    for service, host in zip(services, ("127.0.0.1", "::1"), strict=True):
        address = Address("tcp", host, port)
        assert ask({**service, "listen": str(address)}) == b"ping"
        assert settled(service["name"], 1)["completed_total"] == 1
