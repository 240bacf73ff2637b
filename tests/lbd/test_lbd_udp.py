"""UDP services on real sockets: whose datagram is whose, what ends a session, backends that go."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_client import FakeAgent, settled
from lbd_datagrams import (
    Answers,
    DatagramServer,
    ask,
    client,
    echo,
    silence,
    udp_service,
)
from lbd_waiting import until
from test_lbd_reload import reload, rewrite

from config.schema import POLICIES

Start = Callable[..., ld.Daemon]
Serve = Callable[..., DatagramServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a UDP server with a script."""
    started: list[DatagramServer] = []

    def start(script: Answers = echo, **settings: Any) -> DatagramServer:
        started.append(DatagramServer(script, **settings))
        return started[-1]

    yield start
    for one in started:
        one.close()


def end_idle(one: ld.Daemon, service: dict[str, Any]) -> None:
    """Sessions that rest are over from now on. Until then none was, however slow this machine."""
    rewrite(one, {**service, "timeouts": {"idle_s": 0.2}}, workers=one.count)
    reload(one)


def sources(server: DatagramServer) -> set[Any]:
    return {peer for _, peer in server.seen}


# -- datagrams


def test_a_session_is_one_client_and_one_backend(daemon: Start, serve: Serve) -> None:
    """Two clients, three datagrams each: every backend sees one source a client."""
    backends = [serve(), serve()]
    service = udp_service([b.address for b in backends], policy="rr")
    running = daemon(service)
    with client(service) as one, client(service) as two:
        for number in range(3):
            for sock, name in ((one, b"one"), (two, b"two")):
                sock.send(b"%s %d" % (name, number))
                assert sock.recv(100) == b"%s %d" % (name, number)
    end_idle(running, service)
    assert [len(sources(b)) for b in backends] == [1, 1]
    assert [len({data[:3] for data, _ in b.seen}) for b in backends] == [1, 1]
    found = settled(service["name"], 2)
    assert found["completed_total"] == found["first_byte_total"] == 2
    assert found["datagrams_in_total"] == found["datagrams_out_total"] == 6
    assert found["bytes_in_total"] == found["bytes_out_total"] == 30
    assert found["waiting"] == 0


def test_sessions_come_from_the_configured_source(daemon: Start, serve: Serve) -> None:
    server = serve()
    service = udp_service([server.address], source={"address": "127.0.0.3"})
    daemon(service)
    assert ask(service) == b"ping"
    assert {host for host, _ in sources(server)} == {"127.0.0.3"}


def test_datagrams_of_every_size_pass_unchanged(daemon: Start, serve: Serve) -> None:
    service = udp_service([serve().address])
    daemon(service)
    for size in (0, 1, 1472, 65507):
        data = random.Random(size).randbytes(size)
        assert ask(service, data) == data


def test_many_sessions_at_once_each_get_their_own(daemon: Start, serve: Serve) -> None:
    """400 clients in 2 workers, all open at once: every answer at its own client."""
    backends = [serve() for _ in range(3)]
    service = udp_service([b.address for b in backends], policy="lsq")
    name = service["name"]
    one = daemon(service, workers=2)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(client(service)) for _ in range(400)]
        for turn in range(3):
            for number, sock in enumerate(socks):
                sock.send(b"%d:%d" % (number, turn))
            for number, sock in enumerate(socks):
                assert sock.recv(100) == b"%d:%d" % (number, turn)
        until(lambda: ld.totals(name)["flows"] == 400, "all sessions open")
    end_idle(one, service)
    found = settled(name, 400)
    assert found["completed_total"] == 400
    assert found["datagrams_in_total"] == found["datagrams_out_total"] == 1200
    assert found["datagrams_dropped_total"] == 0
    assert sum(len(sources(b)) for b in backends) == 400


def test_lost_and_reordered_datagrams_pass_as_their_ends_sent_them(
    daemon: Start, serve: Serve
) -> None:
    """A backend loses a quarter, doubles some, and answers in another order than it was asked.

    What it sends to a session reaches that client, in this order, and nothing else does.
    """
    draw = random.Random(5)
    waiting: dict[Any, list[bytes]] = defaultdict(list)

    def lossy(data: bytes, peer: Any) -> list[tuple[bytes, Any]]:
        if data != b"end":
            if draw.random() < 0.75:
                waiting[peer] += [data] * draw.choice([1, 1, 2])
            if len(waiting[peer]) < 5:
                return []
        held, waiting[peer] = waiting[peer], []
        draw.shuffle(held)
        return [(one, peer) for one in held] + ([(b"end", peer)] if data == b"end" else [])

    server = serve(lossy)
    service = udp_service([server.address])
    daemon(service, workers=2)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(client(service)) for _ in range(20)]
        for turn in range(30):
            for number, sock in enumerate(socks):
                sock.send(b"%d:%d" % (number, turn))
        got: list[list[bytes]] = []
        for sock in socks:
            sock.send(b"end")
            got.append([])
            while not got[-1] or got[-1][-1] != b"end":
                got[-1].append(sock.recv(100))
    sent: dict[Any, list[bytes]] = defaultdict(list)
    for data, peer in server.sent:
        sent[peer].append(data)
    assert sorted(got) == sorted(sent.values())
    for number, found in enumerate(got):
        assert {data.split(b":")[0] for data in found[:-1]} == {b"%d" % number}


def test_an_answer_leaves_from_the_address_that_was_asked(daemon: Start, serve: Serve) -> None:
    """Listening everywhere: a connected client of 127.0.0.2 gets nothing from 127.0.0.1."""
    service = udp_service([serve().address], listen=f"udp:0.0.0.0:{ld.free_port()}")
    daemon(service)
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        with client(service, host) as sock:
            sock.send(host.encode())
            assert sock.recv(100) == host.encode()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6_at_both_ends(daemon: Start, serve: Serve, host: str) -> None:
    listen = f"udp:[{host}]:{ld.free_port()}"
    service = udp_service([serve(host="::1").address], listen=listen)
    daemon(service)
    with client(service, "::1") as sock:
        sock.send(b"six")
        assert sock.recv(100) == b"six"


# -- what ends a session


def test_with_as_many_answers_as_expected_a_session_is_over(daemon: Start, serve: Serve) -> None:
    service = udp_service([serve().address], responses=1)
    daemon(service)
    for _ in range(5):
        assert ask(service) == b"ping"
    found = settled(service["name"], 5)
    assert found["completed_total"] == 5
    seen = ld.snapshot(service["name"])
    assert int((seen.fct.t_ns > 0).sum()) > 0
    assert int((seen.duration.t_ns > 0).sum()) > 0


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [({}, "idle_timeout_total"), ({"responses": 1}, "backend_silent_total")],
    ids=["nothing expected", "an answer expected"],
)
def test_a_session_without_an_answer_completes_nothing(
    daemon: Start, serve: Serve, settings: dict[str, Any], outcome: str
) -> None:
    server = serve(silence)
    service = udp_service([server.address], timeouts={"idle_s": 0.2}, **settings)
    daemon(service)
    with client(service) as sock:
        sock.send(b"anybody?")
        until(lambda: server.seen, "the datagram at the backend")
        found = settled(service["name"], 1)
    assert found[outcome] == 1
    assert found["waiting"] == 0


def test_a_full_table_drops_and_counts_and_has_room_again(daemon: Start, serve: Serve) -> None:
    service = udp_service([serve().address], max_connections=4)
    name = service["name"]
    one = daemon(service)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(client(service)) for _ in range(10)]
        for number, sock in enumerate(socks):
            sock.send(b"%d" % number)
        for number, sock in enumerate(socks[:4]):
            assert sock.recv(100) == b"%d" % number
        until(lambda: ld.scalars(name)["sessions_refused_total"] == 6, "six refused")
        assert not select.select(socks[4:], [], [], 0)[0]
        end_idle(one, service)
        settled(name, 4)
        socks[9].send(b"again")
        assert socks[9].recv(100) == b"again"


# -- backends that are gone


@pytest.fixture
def gone() -> Iterator[Callable[[], str]]:
    """Addresses whose port is unreachable, and stays so.

    A socket holds each, so that nobody else gets it; connected to nobody here, it takes nothing.
    """
    with contextlib.ExitStack() as stack:

        def make() -> str:
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            sock.connect(("127.0.0.9", 9))
            return f"udp:127.0.0.1:{sock.getsockname()[1]}"

        yield make


def test_a_backend_that_is_gone_costs_no_client_its_answer(
    daemon: Start, serve: Serve, gone: Callable[[], str]
) -> None:
    """Its port is unreachable: the failure is counted, the datagram goes to the other backend."""
    left = serve().address
    services = [udp_service([gone(), left], policy=p, responses=1) for p in POLICIES]
    daemon(*services)
    for service in services:
        name = service["name"]
        assert [ask(service, b"%d" % n) for n in range(20)] == [b"%d" % n for n in range(20)]
        until(lambda n=name: ld.totals(n)["completed_total"] == 20, "all completed")
        found, scalars = ld.totals(name), ld.scalars(name)
        assert found["flows"] == 0
        assert found["connect_failed_total"] == scalars["sessions_redispatched_total"]
        assert scalars["accepted_total"] == 20


def test_where_all_are_gone_it_is_tried_a_few_times(daemon: Start, gone: Callable[[], str]) -> None:
    service = udp_service([gone() for _ in range(5)])
    name = service["name"]
    daemon(service)
    with client(service) as sock:
        sock.send(b"anybody?")
        until(lambda: ld.totals(name)["datagrams_dropped_total"] == 1, "it was given up")
    found = ld.totals(name)
    assert found["connect_failed_total"] == found["flows_total"] == 3
    assert found["flows"] == 0
    seen = ld.snapshot(name).totals["connect_failed_total"]
    assert sorted(seen.tolist()) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [({"others": 4}, 5), ({"others": 0}, 1), ({"budget": 0.0, "budget_per_s": 0.1}, 2)],
)
def test_attempts_are_as_many_as_the_rule_and_its_budget_say(
    daemon: Start, gone: Callable[[], str], retry: dict[str, float], attempts: int
) -> None:
    service = udp_service([gone() for _ in range(6)], retry=retry, health={"passive": None})
    name = service["name"]
    daemon(service)
    with client(service) as sock:
        sock.send(b"anybody?")
        until(lambda: ld.totals(name)["datagrams_dropped_total"] == 1, "it was given up")
    assert ld.totals(name)["flows_total"] == attempts
    assert ld.scalars(name)["sessions_redispatched_total"] == attempts - 1
    assert ld.scalars(name)["retry_refused_total"] == ("budget" in retry)


def test_a_backend_that_goes_in_the_midst_hands_its_clients_on(daemon: Start, serve: Serve) -> None:
    backends = [serve(), serve()]
    service = udp_service([b.address for b in backends], policy="rr")
    name = service["name"]
    daemon(service)
    with client(service) as one, client(service) as two:
        for sock in (one, two):
            sock.send(b"first")
            assert sock.recv(100) == b"first"
        backends[0].close()

        def served_again(sock: socket.socket) -> bool:
            """One datagram is lost with the news that nobody is there; the next is answered."""
            sock.send(b"again")
            return bool(select.select([sock], [], [], 0.2)[0])

        for sock in (one, two):
            until(lambda s=sock: served_again(s), "served by who is left")
            assert sock.recv(100) == b"again"
    until(lambda: ld.totals(name)["backend_reset_total"] == 1, "the failure counted")
    assert ld.snapshot(name).totals["backend_reset_total"].tolist() == [1, 0]


# -- policies, weights, exchanges


def test_the_shortest_queue_counts_sessions(daemon: Start, serve: Serve) -> None:
    backends = [serve() for _ in range(4)]
    service = udp_service([b.address for b in backends], policy="lsq")
    daemon(service, workers=2)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(client(service))
            sock.send(b"x")
            assert sock.recv(100) == b"x"
        assert [len(sources(b)) for b in backends] == [5, 5, 5, 5]


def test_the_agents_weights_steer_sessions(daemon: Start, serve: Serve) -> None:
    backends = [serve(), serve()]
    service = udp_service([b.address for b in backends], policy="sed", weights="agent", responses=1)
    name = service["name"]
    daemon(service)
    agent = FakeAgent(name)
    agent.give(1.0, 1e9)
    with ld.attached(name) as region:
        until(lambda: ld.scalar(region, 0, "weights_in_force"), "weights in force")
    for _ in range(20):
        ask(service)
    agent.close()
    assert [len(b.seen) for b in backends] == [0, 20]


def test_exchanges_are_told_apart_in_sessions_too(daemon: Start, serve: Serve) -> None:
    service = udp_service([serve().address], load="exchanges")
    name = service["name"]
    daemon(service)
    with client(service) as sock:
        for _ in range(10):
            sock.send(b"x")
            assert sock.recv(100) == b"x"
        until(lambda: ld.totals(name)["exchanges_answered_total"] == 10, "all counted")
        seen = ld.snapshot(name)
    assert seen.exchanges is not None
    assert seen.flows.tolist() == [1]
    assert seen.exchanges.busy.tolist() == [0]


# -- deaths and ends


def test_a_killed_worker_loses_its_sessions_and_no_client(daemon: Start, serve: Serve) -> None:
    """What is sent while nobody is there waits in the socket, which the supervisor keeps."""
    server = serve()
    service = udp_service([server.address])
    name = service["name"]
    one = daemon(service)
    with client(service) as sock:
        sock.send(b"before")
        assert sock.recv(100) == b"before"
        until(lambda: ld.totals(name)["flows"] == 1, "the session published")
        (victim,) = one.workers()
        os.kill(victim, signal.SIGKILL)
        sock.send(b"while nobody is there")
        assert sock.recv(100) == b"while nobody is there"
    until(lambda: ld.totals(name)["flows_total"] == 2, "both sessions counted")
    assert ld.totals(name)["lost_total"] == 1
    assert len(sources(server)) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_leaves_nothing_and_waits_for_no_idle_session(
    daemon: Start, serve: Serve, number: int
) -> None:
    service = udp_service([serve().address])
    one = daemon(service, workers=2)
    assert ask(service) == b"ping"
    assert one.stop(number) == 0


def test_an_answer_under_way_is_waited_for(daemon: Start, serve: Serve) -> None:
    """QUIT while the backend thinks: it answers only once the daemon has been told to stop."""
    told = []

    def late(data: bytes, peer: Any) -> list[tuple[bytes, Any]]:
        until(lambda: told, "the stop")
        return [(data, peer)]

    server = serve(late)
    service = udp_service([server.address])
    one = daemon(service)
    with client(service) as sock:
        sock.send(b"slow one")
        until(lambda: server.seen, "the datagram at the backend")
        one.send(signal.SIGQUIT)
        until(lambda: "stopping" in one.log, "the daemon told")
        told.append(True)
        assert sock.recv(100) == b"slow one"
    assert one.wait() == 0


def test_an_address_in_use_is_told(daemon: Start, launch: Start, serve: Serve) -> None:
    service = udp_service([serve().address])
    daemon(service)
    two = launch({**service, "name": ld.unique_name()})
    assert two.wait() == 1
    assert f"cannot listen on {service['listen']}: the address is in use" in two.log


def test_tcp_and_udp_share_an_address(daemon: Start, serve: Serve) -> None:
    """As a name server needs it."""
    server = serve()
    udp = udp_service([server.address])
    tcp = ld.service([f"127.0.0.1:{ld.free_port()}"], listen=udp["listen"].removeprefix("udp:"))
    one = daemon(udp, tcp, workers=2)
    assert ask(udp) == b"ping"
    assert one.stop() == 0
