"""One relay: what either peer does reaches the other, whatever arrives together with what."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lbd_backends import read_all, reset
from lbd_rig import Rig, rig

from lbd.flow import Outcome


@pytest.fixture
def one() -> Iterator[Rig]:
    with rig() as made:
        yield made


def test_bytes_and_their_end_pass_when_they_arrive_as_one_event(one: Rig) -> None:
    relay, client, server = one.connected()
    one.turn()
    client.sendall(b"request")
    client.shutdown(socket.SHUT_WR)
    one.turn()
    assert read_all(server) == b"request"
    server.sendall(b"answer")
    server.shutdown(socket.SHUT_WR)
    one.turn_until(lambda: one.ended)
    assert read_all(client) == b"answer"
    assert one.outcome is Outcome.COMPLETED
    assert (relay.flow.bytes_in, relay.flow.bytes_out) == (7, 6)


def test_an_answer_that_came_with_the_connection_and_its_end_is_passed_on(one: Rig) -> None:
    listener = one.keep(socket.create_server(("127.0.0.1", 0)))
    client, near = one.accepted()
    relay = one.relay(near)
    relay.connect(socket.AF_INET, listener.getsockname())
    server, _ = listener.accept()
    server.sendall(b"banner")
    server.close()
    one.turn_until(lambda: relay.flow.connected_ns)
    one.turn()
    assert read_all(client) == b"banner"
    client.close()
    one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.COMPLETED


def test_a_connection_that_was_made_while_the_process_stood_still_is_no_timeout(one: Rig) -> None:
    """As a worker does before it judges: it takes the events that waited."""
    listener = one.keep(socket.create_server(("127.0.0.1", 0)))
    _client, near = one.accepted()
    relay = one.relay(near)
    relay.connect(socket.AF_INET, listener.getsockname())
    one.poller.serve()
    relay.check(time.monotonic_ns(), connect_ns=0, idle_ns=3600 * 10**9, total_ns=0)
    assert relay.flow.connected_ns
    assert one.ended == []


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_that_arrives_together_with_bytes_is_passed_on_as_a_reset(
    one: Rig, who: str
) -> None:
    _relay, client, server = one.connected()
    one.turn()
    near, far = (client, server) if who == "client" else (server, client)
    near.sendall(b"last words")
    reset(near)
    one.turn_until(lambda: one.ended)
    assert one.outcome is (Outcome.CLIENT_RESET if who == "client" else Outcome.BACKEND_RESET)
    with pytest.raises(ConnectionResetError):
        read_all(far)


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close_leaves_the_other_direction_open(one: Rig, first: str) -> None:
    _relay, client, server = one.connected()
    near, far = (client, server) if first == "client" else (server, client)
    near.sendall(b"x")
    near.shutdown(socket.SHUT_WR)
    one.turn()
    assert read_all(far) == b"x"
    for _ in range(3):
        far.sendall(b"still talking;")
        one.turn()
    assert not one.ended
    far.shutdown(socket.SHUT_WR)
    one.turn_until(lambda: one.ended)
    assert read_all(near) == b"still talking;" * 3
    assert one.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_after_a_half_close_ends_the_flow(one: Rig, who: str) -> None:
    _relay, client, server = one.connected()
    near, far = (client, server) if who == "client" else (server, client)
    near.sendall(b"x")
    near.shutdown(socket.SHUT_WR)
    one.turn()
    assert read_all(far) == b"x"
    reset(near)
    one.turn_until(lambda: one.ended)
    assert one.outcome is (Outcome.CLIENT_RESET if who == "client" else Outcome.BACKEND_RESET)


@pytest.mark.scenario
def test_one_byte_writes_arrive_in_order(one: Rig) -> None:
    _relay, client, server = one.connected()
    for number in range(256):
        client.sendall(bytes([number]))
        if number % 16 == 0:
            one.turn(1)
    client.shutdown(socket.SHUT_WR)
    one.turn()
    assert read_all(server) == bytes(range(256))


def test_a_server_may_speak_first(one: Rig) -> None:
    _relay, client, server = one.connected()
    server.sendall(b"220 ready")
    one.turn()
    assert client.recv(100) == b"220 ready"
    assert one.ledger.names == ["dispatched", "connected", "answered"]


@pytest.mark.parametrize("ending", ["half-close", "reset"])
def test_back_pressure_holds_bytes_back_and_loses_none(one: Rig, ending: str) -> None:
    """The reader sleeps until the writer is stopped, also with the end queued behind the bytes."""
    relay, client, server = one.connected()
    body = random.Random(1).randbytes(32 << 20)
    sent = 0

    def write() -> None:
        nonlocal sent
        view = memoryview(body)
        with contextlib.suppress(ConnectionError):
            while sent < len(body):
                sent += server.send(view[sent : sent + 65536])
            server.shutdown(socket.SHUT_WR)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    one.turn_until(lambda: relay.client.unsent is not None)
    one.turn()
    assert sent < len(body)
    assert relay.backend is not None
    assert len(relay.client.unsent or b"") <= 65536
    if ending == "reset":
        reset(client)
        one.turn_until(lambda: one.ended)
        assert one.outcome is Outcome.CLIENT_RESET
        writer.join(10)
        server.close()
        return
    digest = hashlib.sha256()
    done = threading.Event()

    def read() -> None:
        while part := client.recv(1 << 20):
            digest.update(part)
        done.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    one.turn_until(done.is_set, 60)
    reader.join()
    writer.join()
    assert digest.digest() == hashlib.sha256(body).digest()


def test_a_client_gone_during_the_connect_is_a_client_reset(one: Rig) -> None:
    listener = one.keep(socket.create_server(("127.0.0.1", 0)))
    client, near = one.accepted()
    relay = one.relay(near)
    reset(client)
    relay.connect(socket.AF_INET, listener.getsockname())
    one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.CLIENT_RESET


def test_a_refused_connect_resets_the_client(one: Rig) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        client, near = one.accepted()
        relay = one.relay(near)
        relay.connect(socket.AF_INET, nobody.getsockname())
        one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.CONNECT_FAILED
    assert one.ledger.names == ["dispatched", "ended"]
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_unix_backend_with_a_full_queue_is_a_failed_connect(one: Rig, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = one.keep(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    filler = one.keep(socket.socket(socket.AF_UNIX))
    filler.connect(path)
    _client, near = one.accepted()
    relay = one.relay(near)
    relay.connect(socket.AF_UNIX, path)
    one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.CONNECT_FAILED
    assert one.ledger.names == ["dispatched", "ended"]


def test_a_backend_that_hangs_up_without_a_word_is_silent(one: Rig) -> None:
    _relay, client, server = one.connected()
    client.sendall(b"hello?")
    one.turn()
    assert server.recv(10) == b"hello?"
    server.close()
    one.turn()
    assert client.recv(1) == b""
    client.close()
    one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.BACKEND_SILENT


def test_a_backend_that_half_closes_first_still_gets_every_byte(one: Rig) -> None:
    """A sink: it will say nothing, and reads on."""
    _relay, client, server = one.connected()
    server.shutdown(socket.SHUT_WR)
    one.turn()
    assert client.recv(1) == b""
    client.sendall(b"all of it")
    client.close()
    one.turn_until(lambda: one.ended)
    assert server.recv(100) == b"all of it"
    assert server.recv(1) == b""


def test_a_backend_that_ends_after_its_silent_client_has_completed(one: Rig) -> None:
    _relay, client, server = one.connected()
    client.shutdown(socket.SHUT_WR)
    one.turn()
    server.close()
    one.turn_until(lambda: one.ended)
    assert one.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("server", ["unix", "v6"])
def test_other_families_of_backends_carry_bytes_both_ways(
    one: Rig, server: str, tmp_path: Path
) -> None:
    family, bind = (
        (socket.AF_UNIX, str(tmp_path / "s")) if server == "unix" else (socket.AF_INET6, ("::1", 0))
    )
    _relay, client, far = one.connected(family, bind)
    client.sendall(b"ping")
    client.shutdown(socket.SHUT_WR)
    one.turn()
    assert read_all(far) == b"ping"
    far.sendall(b"pong")
    far.close()
    one.turn_until(lambda: one.ended)
    assert read_all(client) == b"pong"
    assert one.outcome is Outcome.COMPLETED


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ((10**9, 1, 0), Outcome.IDLE_TIMEOUT),
        ((10**9, 10**18, 1), Outcome.TOTAL_TIMEOUT),
    ],
)
def test_a_limit_that_passed_resets_both_ends(
    one: Rig, limits: tuple[int, int, int], outcome: Outcome
) -> None:
    relay, client, server = one.connected()
    relay.check(time.monotonic_ns(), *limits)
    one.turn()
    assert one.outcome is outcome
    for far in (client, server):
        with pytest.raises(ConnectionResetError):
            far.recv(1)


def test_moved_bytes_are_told_while_the_flow_is_open(one: Rig) -> None:
    relay, client, _server = one.connected()
    client.sendall(b"12345")
    one.turn()
    relay.check(time.monotonic_ns(), 10**18, 10**18, 0)
    assert ("moved", 0, 5, 0) in one.ledger.calls
    assert not one.ended


def test_an_idle_limit_counts_from_the_last_byte(one: Rig) -> None:
    relay, client, server = one.connected()
    client.sendall(b"x")
    server.sendall(b"y")
    one.turn()
    later = time.monotonic_ns() + 10**9
    relay.check(later, 10**18, 10**8, 0)
    assert not one.ended
    relay.check(later + 10**9, 10**18, 10**8, 0)
    assert one.outcome is Outcome.IDLE_TIMEOUT


def test_who_never_answers_what_was_asked_has_failed(one: Rig) -> None:
    relay, client, _server = one.connected()
    client.sendall(b"x")
    one.turn()
    later = time.monotonic_ns() + 10**9
    relay.check(later, 10**18, 10**8, 0)
    relay.check(later + 10**9, 10**18, 10**8, 0)
    assert one.outcome is Outcome.BACKEND_TIMEOUT
