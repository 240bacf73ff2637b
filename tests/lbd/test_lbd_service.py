"""The daemon's life: backends that misbehave, limits, weights, the end; counts are right after."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, close_at_once, echo, hold, read_all, read_exactly, reset
from lbd_client import FakeAgent, ask, connect, refused, settled
from lbd_waiting import until

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


# -- addresses


@pytest.mark.parametrize("kind", ["v4", "v6", "unix"])
def test_each_kind_of_address_is_listened_on(
    daemon: Start, backend: Make, tmp_path: Path, kind: str
) -> None:
    listen = {
        "v4": f"127.0.0.1:{ld.free_port()}",
        "v6": f"[::1]:{ld.free_port()}",
        "unix": f"unix:{tmp_path / 'listen'}",
    }[kind]
    service = ld.service([backend(echo).address], listen=listen)
    one = daemon(service, workers=2)
    assert [ask(service, b"%d" % n) for n in range(20)] == [b"%d" % n for n in range(20)]
    assert settled(service["name"], 20)["completed_total"] == 20
    assert one.stop() == 0
    assert not (tmp_path / "listen").exists()


# -- backends that misbehave


def test_outcomes_of_backends_are_told_apart(daemon: Start, backend: Make, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        nobody, blackhole = (stack.enter_context(socket.socket()) for _ in range(2))
        nobody.bind(("127.0.0.1", 0))
        # A listener whose accept queue is full drops SYNs: connecting to it takes for ever.
        blackhole.bind(("127.0.0.1", 0))
        blackhole.listen(0)
        stack.enter_context(socket.create_connection(blackhole.getsockname(), 10))
        services = {
            "connect_failed_total": ld.service([f"127.0.0.1:{nobody.getsockname()[1]}"]),
            "connect_timeout_total": ld.service(
                [f"127.0.0.1:{blackhole.getsockname()[1]}"], timeouts={"connect_ms": 200}
            ),
            "backend_silent_total": ld.service([backend(close_at_once).address]),
            "backend_reset_total": ld.service([backend(reset).address]),
            "idle_timeout_total": ld.service([backend(hold).address], timeouts={"idle_s": 0.2}),
            "total_timeout_total": ld.service([backend(echo).address], timeouts={"total_s": 0.2}),
        }
        daemon(*services.values())
        for outcome, service in services.items():
            with contextlib.suppress(ConnectionError), connect(service) as sock:
                read_all(sock)
            found = settled(service["name"], 1)
            ended = {k: n for k, n in found.items() if n and k in set(ENDS)}
            assert ended == {outcome: 1}
            assert found["waiting"] == 0


ENDS = (
    "completed_total",
    "connect_failed_total",
    "connect_timeout_total",
    "backend_reset_total",
    "backend_silent_total",
    "client_reset_total",
    "idle_timeout_total",
    "total_timeout_total",
    "shutdown_total",
)


# -- limits


def test_a_full_service_lets_connections_wait_and_refuses_none(
    daemon: Start, backend: Make
) -> None:
    service = ld.service([backend(echo).address], max_connections=3)
    daemon(service)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(service)) for _ in range(8)]
        for sock in socks:
            sock.sendall(b"x")
        until(lambda: ld.totals(service["name"])["flows"] == 3, "three flows")
        for sock in socks:
            # In the order of the accept queue; each end makes room for the next.
            assert sock.recv(1) == b"x"
            assert ld.totals(service["name"])["flows"] <= 3
            sock.close()
    settled(service["name"], 8)
    assert ld.scalars(service["name"])["accept_paused_total"] > 0


def test_out_of_descriptors_accepting_pauses_and_nothing_is_lost(
    daemon: Start, backend: Make
) -> None:

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    service = ld.service([backend(echo).address])
    daemon(service, preexec_fn=few)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(service)) for _ in range(100)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%3d" % number)
        for number, sock in enumerate(socks):
            assert read_exactly(sock, 3) == b"%3d" % number
            sock.close()
    found = settled(service["name"], 100)
    assert found["completed_total"] == 100
    assert ld.scalars(service["name"])["accept_paused_total"] > 0


# -- the end


def test_quit_lets_flows_finish_and_refuses_new_ones(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    with connect(service) as first, connect(service) as second:
        for sock in (first, second):
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
        one.send(signal.SIGQUIT)
        until(lambda: refused(service), "new connections refused")
        first.shutdown(socket.SHUT_WR)
        assert read_all(first) == b""
        # One flow's end must not disturb the others.
        for _ in range(50):
            second.sendall(b"b")
            assert second.recv(1) == b"b"
        second.shutdown(socket.SHUT_WR)
        assert read_all(second) == b""
    assert one.wait() == 0


def test_quit_ends_what_outlasts_the_drain_time(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], timeouts={"drain_s": 0.2})
    one = daemon(service)
    with connect(service) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        assert one.stop(signal.SIGQUIT) == 0
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_end_flows_at_once(daemon: Start, backend: Make, number: int) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    with connect(service) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        assert one.stop(number) == 0
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_second_signal_ends_a_drain(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    with connect(service) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        one.send(signal.SIGQUIT)
        until(lambda: refused(service), "the drain begun")
        assert one.stop(signal.SIGTERM) == 0


# -- weights


@pytest.fixture
def steered(daemon: Start, backend: Make) -> Iterator[tuple[dict[str, Any], FakeAgent]]:
    """A service of two backends that follows an agent, and the agent."""
    service = ld.service(
        [backend(echo).address, backend(echo).address],
        policy="wcmp",
        fallback="rr",
        weights="agent",
    )
    daemon(service)
    agent = FakeAgent(service["name"])
    yield service, agent
    agent.close()


def in_force(name: str) -> bool:
    with ld.attached(name) as region:
        return bool(ld.scalar(region, 0, "weights_in_force"))


def shares(service: dict[str, Any], flows: int = 40) -> list[int]:
    before = ld.snapshot(service["name"]).totals["flows_total"]
    for _ in range(flows):
        ask(service)
    settled(service["name"], int(before.sum()) + flows)
    after = ld.snapshot(service["name"]).totals["flows_total"]
    return [int(n) for n in after - before]


def test_weights_steer_until_they_expire_then_the_fallback_chooses(
    steered: tuple[dict[str, Any], FakeAgent],
) -> None:
    service, agent = steered
    name = service["name"]
    assert shares(service) == [20, 20]
    agent.give(1.0, 1e9)
    until(lambda: in_force(name), "weights in force")
    assert shares(service) == [0, 40]
    agent.give(1e9, 1.0, expiry_s=1.0)
    until(lambda: not in_force(name), "the fallback")
    assert shares(service) == [20, 20]
    assert ld.scalars(name)["fallback_total"] == 1
    agent.give(1.0, 1e9)
    until(lambda: in_force(name), "weights in force again")
    assert shares(service) == [0, 40]


@pytest.mark.parametrize(
    ("weight", "settings", "counter"),
    [
        ((float("nan"), 1.0), {}, "frames_invalid_total"),
        ((-1.0, 1.0), {}, "frames_invalid_total"),
        ((0.0, 1.0), {}, "frames_invalid_total"),
        ((float("inf"), 1.0), {}, "frames_invalid_total"),
        ((1.0, 1e9), {"expiry_s": -1.0}, "frames_stale_total"),
        ((1.0, 1e9), {"shift": 100}, "frames_foreign_total"),
    ],
    ids=["nan", "negative", "zero", "infinite", "stale", "foreign"],
)
def test_bad_frames_are_refused_and_counted(
    steered: tuple[dict[str, Any], FakeAgent],
    weight: tuple[float, ...],
    settings: dict[str, Any],
    counter: str,
) -> None:
    service, agent = steered
    agent.give(*weight, **settings)
    until(lambda: ld.scalars(service["name"])[counter] == 1, counter)
    assert not in_force(service["name"])
    assert shares(service, 10) == [5, 5]


def test_a_restarted_agent_is_heard_at_its_first_frame(
    steered: tuple[dict[str, Any], FakeAgent],
) -> None:
    service, agent = steered
    for _ in range(50):
        agent.give(1e9, 1.0)
    agent.close()
    successor = FakeAgent(service["name"])
    successor.give(1.0, 1e9)

    def newest() -> bool:
        with ld.attached(service["name"]) as region:
            return ld.scalar(region, 0, "weights_seq") == 51

    until(newest, "the successor's frame applied")
    assert shares(service) == [0, 40]
    successor.close()


# -- a slow reader


@pytest.mark.scenario
def test_a_reader_that_reads_nothing_costs_no_memory(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 GB asked for, nothing read: the backend is stalled, the daemon's memory stands still."""
    block = bytes(range(256)) * 4096
    sent = 0

    def pour(sock: socket.socket) -> None:
        nonlocal sent
        if sock.recv(1) == b"!":
            while sent < 1 << 30:
                sent += sock.send(block[sent % len(block) :])

    service = ld.service([backend(pour).address])
    one = daemon(service)
    with connect(service) as warm:
        warm.sendall(b"?")
        warm.recv(1)
    pids = [one.pid, *one.workers()]
    before = [ld.rss_bytes(pid) for pid in pids]
    with connect(service) as sock:
        sock.sendall(b"!")
        seen = [-1]

        def stalled() -> bool:
            seen.append(sent)
            return len(seen) > 100 and seen[-1] == seen[-100] > 0

        until(stalled, "the backend stalled")
        after = [ld.rss_bytes(pid) for pid in pids]
        grown = sum(after) - sum(before)
        with capsys.disabled():
            print(f"\n[slow reader: backend stalled after {sent} bytes, RSS grew {grown} bytes]")
        assert sent < 1 << 28
        assert grown < 2 << 20
        wanted = 64 << 20
        got = read_exactly(sock, wanted)
        assert got == block * (wanted // len(block))


# -- what is left


def test_inherited_descriptors_do_not_pass_a_worker(daemon: Start, backend: Make) -> None:
    """A worker holds its listeners and its region, none of the supervisor's or of its siblings."""
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    for pid in one.workers():
        links = [os.readlink(p) for p in _links(pid)]
        assert sum("lbd." in link for link in links) <= 2
    assert one.stop() == 0


def _links(pid: int) -> list[Path]:
    return [p for p in Path(f"/proc/{pid}/fd").iterdir() if p.is_symlink()]
