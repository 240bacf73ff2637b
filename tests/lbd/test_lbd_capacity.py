"""Backends that take only so many flows, the queue before them, drains with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo, read_exactly
from lbd_client import connect, served
from lbd_supervised import settle, supervised, told
from lbd_waiting import until

from config.health import Health, SlowStart
from config.schema import Config
from lbd.supervisor import Supervisor

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
TCP_ESTABLISHED = 1


class Counted:
    """A server that counts how many connections it has at once, and the most it ever had.

    By the kernel's word: one that the balancer has closed is none, though its thread has had no
    turn yet to see the end.
    """

    def __init__(self) -> None:
        self.most = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
            self.most = max(self.most, sum(map(_established, self._open)))
        try:
            echo(sock)
        finally:
            with self._lock:
                self._open.discard(sock)


def _established(sock: socket.socket) -> bool:
    """tcpi_state, the first byte of tcp(7)'s TCP_INFO: neither side has ended."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_ESTABLISHED


def limited(addresses: list[str], *most: int, **settings: Any) -> dict[str, Any]:
    service = ld.service(addresses, **settings)
    for entry, limit in zip(service["backends"], most, strict=True):
        entry["max_connections"] = limit
    return service


@pytest.mark.parametrize("policy", ["sed", "rr", "maglev", "ewma", "wrr", "hcl"])
def test_no_backend_ever_has_more_flows_than_its_limit_and_none_is_lost(
    daemon: Start, backend: Make, policy: str
) -> None:
    """Forty at once through two workers, for a room of three and two."""
    servers = [Counted(), Counted()]
    service = limited([backend(s).address for s in servers], 3, 2, policy=policy)
    daemon(service, workers=2)
    failed: list[Exception] = []

    def one_client(number: int) -> None:
        try:
            with connect(service) as sock:
                for _ in range(3):
                    sock.sendall(b"%06d" % number)
                    assert read_exactly(sock, 6) == b"%06d" % number
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one_client, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    found = served(service["name"], 40)
    assert found["completed_total"] == 40
    assert servers[0].most <= 3 + 2
    assert servers[1].most <= 2 + 2
    assert ld.scalars(service["name"])["queued_total"] > 0


def test_the_queue_is_first_come_first_served(daemon: Start, backend: Make) -> None:
    service = limited([backend(echo).address], 1)
    daemon(service)
    with contextlib.ExitStack() as stack:
        socks = []
        for number in range(6):
            socks.append(stack.enter_context(connect(service)))
            socks[-1].sendall(b"%d" % number)
            until(lambda n=number: _accepted(service) == n + 1, "accepted")
        for number, sock in enumerate(socks):
            assert sock.recv(1) == b"%d" % number
            assert ld.totals(service["name"])["flows"] <= 1
            for later in socks[number + 1 :]:
                later.setblocking(False)
                with pytest.raises(BlockingIOError):
                    later.recv(1)
                later.settimeout(20)
            sock.close()


def _accepted(service: dict[str, Any]) -> int:
    return ld.scalars(service["name"])["accepted_total"]


def queued(service: dict[str, Any]) -> int:
    with ld.attached(service["name"]) as region:
        return ld.scalar(region, 0, "queued")


def test_a_full_queue_sheds_the_newest_and_a_long_wait_ends(daemon: Start, backend: Make) -> None:
    service = limited([backend(echo).address], 1, queue={"size": 2, "timeout_ms": 1500})
    daemon(service)
    name = service["name"]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(connect(service))
        first.sendall(b"a")
        assert first.recv(1) == b"a"
        waiting = [stack.enter_context(connect(service)) for _ in range(2)]
        until(lambda: queued(service) == 2, "two in the queue")
        with connect(service) as shed:
            assert shed.recv(1) == b""
        for sock in waiting:
            assert sock.recv(1) == b""
        first.sendall(b"b")
        assert first.recv(1) == b"b"
    found = ld.scalars(name)
    assert (found["queue_full_total"], found["queue_timeout_total"]) == (1, 2)
    assert queued(service) == 0
    assert found["accepted_total"] == 4
    served(name, 1)


def test_the_queue_moves_on_when_another_worker_has_room(daemon: Start, backend: Make) -> None:
    """The place is freed in one worker, whoever waits in the other gets it."""
    service = limited([backend(echo).address], 1)
    daemon(service, workers=2)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(service)) for _ in range(12)]
        for sock in socks:
            sock.sendall(b"x")
        left = set(socks)
        while left:
            ready = until(lambda: _readable(left), "somebody served")
            for sock in ready:
                assert sock.recv(1) == b"x"
                left.discard(sock)
                sock.close()
    assert served(service["name"], 12)["completed_total"] == 12


def _readable(socks: set[socket.socket]) -> list[socket.socket]:
    return select.select(list(socks), [], [], 0)[0]


def test_a_stop_ends_those_who_wait(daemon: Start, backend: Make) -> None:
    service = limited([backend(echo).address], 1)
    one = daemon(service)
    with connect(service) as first, connect(service) as second:
        first.sendall(b"a")
        assert first.recv(1) == b"a"
        until(lambda: queued(service) == 1, "one in the queue")
        assert one.stop() == 0
        assert second.recv(1) == b""


# -- orders, given as a runtime interface would


def test_those_who_wait_in_a_worker_that_dies_are_counted(daemon: Start, backend: Make) -> None:
    service = limited([backend(echo).address], 2)
    name = service["name"]
    daemon(service)
    with contextlib.ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(connect(service))
        until(lambda: queued(service) == 5, "all but two wait")
        with ld.attached(name) as region:
            os.kill(ld.worker_pids(region)[0], signal.SIGKILL)
        until(lambda: ld.scalars(name)["queue_lost_total"] == 5, "counted as lost")
        assert ld.totals(name)["lost_total"] == 2
        assert queued(service) == 0


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
async def ordered(backend: Make) -> AsyncIterator[tuple[dict[str, Any], Supervisor]]:
    """A service of two backends, and its supervisor in the test's own process."""
    service = ld.service([backend(echo).address, backend(echo).address], policy="rr")
    async with supervised(service) as supervisor:
        yield service, supervisor


async def test_a_drain_ends_what_outlasts_its_deadline_and_ready_takes_it_back(
    ordered: tuple[dict[str, Any], Supervisor], clients: contextlib.ExitStack
) -> None:
    service, supervisor = ordered
    name = service["name"]
    monitor = supervisor.monitor(name)

    def opened() -> list[socket.socket]:
        socks = [clients.enter_context(connect(service)) for _ in range(4)]
        for sock in socks:
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
        return socks

    socks = await asyncio.to_thread(opened)
    monitor.order("b0", "drain", time.monotonic_ns(), deadline_s=0.3)
    assert monitor.state("b0") == "drain"
    assert ld.usable(name) == {"b1"}
    await settle(lambda: ld.totals(name)["withdrawn_total"] == 2, "the deadline")
    ended = [sock for sock in socks if _is_reset(sock)]
    assert len(ended) == 2
    for sock in set(socks) - set(ended):
        sock.sendall(b"b")
        assert await asyncio.to_thread(sock.recv, 1) == b"b"
    await asyncio.to_thread(opened)
    await settle(lambda: _given(name) == [2, 6], "all to the other")
    monitor.order("b0", "ready", time.monotonic_ns())
    assert ld.usable(name) == {"b0", "b1"}
    await settle(lambda: told(name), "the worker told")
    await asyncio.to_thread(opened)
    await settle(lambda: _given(name) == [4, 8], "both have their share")
    with pytest.raises(KeyError):
        monitor.order("nobody", "drain", 0)


async def test_a_deadline_may_be_moved_and_outlives_another_rule_of_health(
    ordered: tuple[dict[str, Any], Supervisor], clients: contextlib.ExitStack
) -> None:
    """Another rule also finds nobody new: who was there from the start keeps the full share."""
    service, supervisor = ordered
    name = service["name"]
    monitor = supervisor.monitor(name)
    for _ in range(2):
        clients.enter_context(connect(service))
    await settle(lambda: _given(name) == [1, 1], "a flow to each")
    monitor.order("b0", "drain", time.monotonic_ns(), deadline_s=3600)
    far_ns = ld.state_word(name, "b0", "end_by_ns")

    def with_slow_start(config: Config) -> Config:
        (one,) = config.services
        health = one.health.model_copy(update={"slow_start": SlowStart(window_s=600)})
        return config.model_copy(update={"services": (one.model_copy(update={"health": health}),)})

    await supervisor.edit(with_slow_start)
    assert ld.state_word(name, "b0", "end_by_ns") == far_ns
    assert ld.states(name) == {"b0": "drain", "b1": "up"}
    assert ld.share(name, "b1") == 1.0
    monitor.order("b0", "drain", time.monotonic_ns(), deadline_s=0)
    await settle(lambda: ld.totals(name)["withdrawn_total"] == 1, "the new deadline")
    assert ld.totals(name)["flows"] == 1


async def test_what_a_server_said_counts_no_more_once_it_is_not_asked(backend: Make) -> None:
    agent = backend(lambda sock: sock.sendall(b"50% maxconn:3\n"))
    service = limited([backend(echo).address], 7)
    service["health"] = {"feedback": {"port": agent.sockaddr[1], "interval_ms": 20}}
    name = service["name"]

    def unasked(config: Config) -> Config:
        (one,) = config.services
        return config.model_copy(
            update={"services": (one.model_copy(update={"health": Health()}),)}
        )

    async with supervised(service) as supervisor:
        await settle(lambda: ld.state_word(name, "b0", "max_flows") == 3, "its word")
        await supervisor.edit(unasked)
        assert ld.state_word(name, "b0", "max_flows") == 7
        assert ld.share(name, "b0") == 1.0


async def test_a_fault_of_ours_does_not_end_the_supervisors_watch(
    ordered: tuple[dict[str, Any], Supervisor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, supervisor = ordered

    def fails(now_ns: int) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(supervisor.monitor(service["name"]), "tick", fails)
        await settle(lambda: "a fault" in caplog.text, "the fault told")
    with ld.attached(service["name"]) as region:
        beat_ns = region.heartbeat_ns
        await settle(lambda: region.heartbeat_ns > beat_ns, "a further beat")


def _given(name: str) -> list[int]:
    return [int(count) for count in ld.snapshot(name).totals["flows_total"]]


def _is_reset(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        sock.settimeout(20)
        return False
    except ConnectionResetError:
        return True
    return False


async def test_maintenance_lets_flows_be_and_takes_no_new_ones(
    ordered: tuple[dict[str, Any], Supervisor],
) -> None:
    service, supervisor = ordered
    name = service["name"]
    monitor = supervisor.monitor(name)
    monitor.order("b0", "maint", time.monotonic_ns())
    monitor.order("b1", "maint", time.monotonic_ns())
    await settle(lambda: told(name), "the worker told")

    def refused() -> bool:
        with connect(service) as sock:
            return sock.recv(1) == b""

    # Withdrawn by intent: no panic brings them back.
    assert await asyncio.to_thread(refused)
    assert ld.scalars(name)["no_backend_total"] == 1
    monitor.order("b1", "ready", time.monotonic_ns())
    monitor.limit("b1", 1)
    await settle(lambda: told(name), "the worker told")

    def one_after_the_other() -> None:
        with connect(service) as first, connect(service) as second:
            first.sendall(b"a")
            assert first.recv(1) == b"a"
            until(lambda: queued(service) == 1, "the second waits")
            first.close()
            second.sendall(b"b")
            assert second.recv(1) == b"b"

    await asyncio.to_thread(one_after_the_other)
