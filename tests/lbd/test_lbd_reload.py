"""Another configuration, another program: taken into force while flows run, or not at all."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lbd_daemon as ld
import lbd_rush
import pytest
import yaml
from lbd_backends import Backend, echo, read_all
from lbd_client import ask, connect, refused
from lbd_waiting import until

from shm.layout import Layout
from shm.region import Region

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
Long = Callable[..., "LongFlow"]


def rewrite(one: ld.Daemon, *services: dict[str, Any], **settings: Any) -> None:
    """Another file in place of the daemon's, whose bookkeeping follows."""
    config = {**settings, "services": list(services)}
    one.path.write_text(yaml.safe_dump(config, sort_keys=False))
    one.services = [*one.services, *services]


def reload(one: ld.Daemon, said: str = "reloaded") -> None:
    """SIGHUP, and wait until the log says what became of it."""
    before = one.log.count(said)
    one.send(signal.SIGHUP)
    until(lambda: one.log.count(said) > before, f"{said!r} in the log")


def names(service: dict[str, Any]) -> list[str]:
    with ld.attached(service["name"]) as region:
        return [entry.name for entry in region.entries()]


class Clients:
    """Threads that ask all the time. `failed`: the errors; `done`: how often they asked."""

    def __init__(self, service: dict[str, Any], count: int) -> None:
        self.failed: list[BaseException] = []
        self.done = 0
        self._service = service
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                assert ask(self._service, b"12345") == b"12345"
            except (OSError, AssertionError) as error:
                self.failed.append(error)
            self.done += 1

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def clients(service: dict[str, Any], count: int = 3) -> Iterator[Clients]:
    asking = Clients(service, count)
    try:
        yield asking
    finally:
        asking.close()


class LongFlow:
    """A connection that sends numbered bytes and must get the same back."""

    def __init__(self, service: dict[str, Any]) -> None:
        self.sock = connect(service)
        self._number = 0

    def check(self) -> None:
        data = bytes((self._number + at) % 256 for at in range(1000))
        self._number += 1
        self.sock.sendall(data)
        assert self.sock.recv(1000, socket.MSG_WAITALL) == data

    def close(self) -> None:
        with self.sock:
            self.sock.shutdown(socket.SHUT_WR)
            assert read_all(self.sock) == b""


@pytest.fixture
def long_flow() -> Iterator[Callable[[dict[str, Any]], LongFlow]]:
    """Open one; closed after the test, however that ended: an open socket would fail the next."""
    with contextlib.ExitStack() as stack:

        def start(service: dict[str, Any]) -> LongFlow:
            flow = LongFlow(service)
            stack.enter_context(flow.sock)
            return flow

        yield start


def test_backends_come_and_go_in_place(daemon: Start, backend: Make, long_flow: Long) -> None:
    first, second = backend(echo), backend(echo)
    service = ld.service([first.address], policy="rr")
    one = daemon(service, workers=2)
    workers = one.workers()
    flow = long_flow(service)
    flow.check()
    changed = {**service, "backends": [{"name": "new", "address": second.address, "weight": 3.0}]}
    rewrite(one, changed, workers=2)
    reload(one)
    until(lambda: f"services.{service['name']}.backends.new" in one.log, "the change told")
    for _ in range(10):
        assert ask(service) == b"ping"
    # The former backend keeps its slot for the flow that is open.
    assert names(service) == ["b0", "new"]
    flow.check()
    flow.close()
    until(lambda: names(service) == ["new"], "the slot given back")
    assert one.workers() == workers


def test_a_slot_is_used_again_for_another_backend(daemon: Start, backend: Make) -> None:
    servers = [backend(echo) for _ in range(4)]
    service = ld.service([servers[0].address], slots=2)
    one = daemon(service)
    for number, server in enumerate(servers[1:]):
        again = {**service, "backends": [{"name": f"n{number}", "address": server.address}]}
        rewrite(one, again)
        reload(one)
        assert [ask(service, b"%d" % n) for n in range(5)] == [b"%d" % n for n in range(5)]
        until(lambda n=number: names(service) == [f"n{n}"], "the last one gone")
    with ld.attached(service["name"]) as region:
        assert region.entries()[0].identity == 4
    until(lambda: ld.totals(service["name"])["flows_total"] == 5, "only its own flows counted")


def test_more_backends_than_slots_change_nothing(daemon: Start, backend: Make) -> None:
    server = backend(echo)
    service = ld.service([server.address], slots=1)
    one = daemon(service)
    other = [{"name": "other", "address": backend(echo).address}]
    rewrite(one, {**service, "backends": other})
    reload(one, "not reloaded")
    assert "1 backends to add, but 0 free slots" in one.log
    assert names(service) == ["b0"]
    assert ask(service) == b"ping"


def test_a_bad_file_changes_nothing_and_says_why(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    one.path.write_text(one.path.read_text() + "surprise: 1\n")
    reload(one, "not reloaded")
    assert f"not reloaded: {one.path}:" in one.log
    assert "surprise: found an unknown key" in one.log
    one.path.unlink()
    reload(one, "no readable file")
    assert ask(service) == b"ping"


def test_what_only_a_restart_of_the_agent_takes_over_is_told(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    said = "the agent's section has changed"
    rewrite(one, {**service, "policy": "rr"})
    reload(one)
    assert said not in one.log
    rewrite(one, {**service, "policy": "rr"}, agent={"mode": "shadow"})
    reload(one)
    assert said in one.log


def test_a_taken_address_changes_nothing(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    workers = one.workers()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = ld.service(["127.0.0.1:1"], listen=f"127.0.0.1:{taken.getsockname()[1]}")
        rewrite(one, service, other, workers=2)
        reload(one, "not reloaded")
    assert "the address is in use by another process" in one.log
    assert one.workers() == workers
    assert ask(service) == b"ping"


def test_policy_and_limits_change_under_open_flows(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], policy="rr")
    one = daemon(service)
    flow = long_flow(service)
    for policy in ("maglev", "ewma", "sed", "wrr"):
        rewrite(one, {**service, "policy": policy})
        reload(one)
        flow.check()
        assert ask(service) == b"ping"
    rewrite(one, {**service, "policy": "wrr", "timeouts": {"idle_s": 0.2}})
    reload(one)
    # A flow that carries nothing is ended by the new limit.
    with pytest.raises(ConnectionResetError):
        flow.sock.recv(1)
    flow.sock.close()
    until(lambda: ld.totals(service["name"])["idle_timeout_total"] == 1, "counted as such")


def test_workers_and_listeners_change_without_a_lost_connection(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    """New workers on the same sockets, fewer and more; the old ones finish what they have."""
    service = ld.service([backend(echo).address])
    other = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    flows = [long_flow(service) for _ in range(4)]
    with clients(service) as asking:
        for workers, services in (
            (3, [service]),
            (1, [service, other]),
            (2, [other, service]),
            (2, [service]),
        ):
            rewrite(one, *services, workers=workers)
            one.count = workers
            reload(one)
            for flow in flows:
                flow.check()
        done = asking.done
        until(lambda: asking.done > done + 10, "connections after the last reload")
    assert asking.failed == []
    assert refused(other)
    for flow in flows:
        flow.close()
    until(lambda: len(one.workers()) == 2, "the former workers gone")
    assert one.stop() == 0


def test_a_region_that_cannot_be_made_changes_nothing(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    """Its name belongs to another live balancer."""
    service = ld.service([backend(echo).address])
    one = daemon(service)
    with ld.attached(service["name"]) as region:
        generation = region.generation
    other = ld.service(["127.0.0.1:1"])
    flow = long_flow(service)
    taken = Region.create(other["name"], Layout(1, 1, 1))
    rewrite(one, service, other)
    reload(one, "not reloaded")
    assert "belongs to a live process" in one.log
    taken.remove()
    flow.check()
    with ld.attached(service["name"]) as region:
        assert region.generation == generation
    assert ask(service) == b"ping"
    assert refused(other)
    flow.close()


def test_the_program_is_exchanged_under_open_flows(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    service = ld.service([backend(echo).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, metrics=metrics)
    flow = long_flow(service)
    flow.check()
    for _ in range(2):
        before = set(one.workers())
        ready = until(lambda: one.log.count("ready:"), "the daemon's word")
        with clients(service) as asking:
            one.send(signal.SIGUSR2)
            until(lambda n=ready: one.log.count("ready:") > n, "the new program serving")
            flow.check()
            done = asking.done
            until(lambda n=done, a=asking: a.done > n + 10, "connections after it")
        assert asking.failed == []
        assert set(one.workers()) - before
    flow.check()
    flow.close()
    until(lambda: len(one.workers()) == 2, "the former workers gone")
    assert one.stop() == 0


def test_workers_of_the_program_before_the_last_are_ended_too(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    service = ld.service([backend(echo).address], timeouts={"drain_s": 3600.0})
    one = daemon(service)
    flow = long_flow(service)
    flow.check()
    for ready in (1, 2):
        until(lambda n=ready: one.log.count("ready:") == n, "the program serving")
        one.send(signal.SIGUSR2)
    until(lambda: one.log.count("ready:") == 3, "the last program serving")
    flow.check()
    until(lambda: len(one.workers()) == 2, "those without a flow gone")
    assert one.stop(signal.SIGTERM) == 0
    with pytest.raises(ConnectionResetError):
        flow.sock.recv(1)


def test_no_upgrade_to_a_program_that_refuses_the_file(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    workers = one.workers()
    one.path.write_text("nonsense")
    one.send(signal.SIGUSR2)
    until(lambda: "not upgraded" in one.log, "the refusal")
    assert one.workers() == workers
    assert ask(service) == b"ping"


def test_former_workers_are_ended_with_the_daemon(
    daemon: Start, backend: Make, long_flow: Long
) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    flow = long_flow(service)
    flow.check()
    rewrite(one, service, workers=2)
    reload(one)
    assert len(one.workers()) == 3
    assert one.stop(signal.SIGTERM) == 0
    with pytest.raises(ConnectionResetError):
        flow.sock.recv(1)
    flow.sock.close()


class Talk:
    """A flow that always has bytes on the way, from one thread; what comes back must be the same.

    `check` waits until some have come back since the last time.
    """

    def __init__(self, service: dict[str, Any], number: int) -> None:
        self.wrong: list[str] = []
        self.bytes_compared = 0
        self._sock = connect(service)
        self._draw = random.Random(number)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                data = self._draw.randbytes(self._draw.choice((1, 700, 20_000)))
                self._sock.sendall(data)
                if self._sock.recv(len(data), socket.MSG_WAITALL) != data:
                    self.wrong.append("other bytes")
                    return
                self.bytes_compared += len(data)
                # Twenty of them would else leave no CPU to those who come and go.
                self._over.wait(0.05)
            self._sock.shutdown(socket.SHUT_WR)
            if self._sock.recv(1) != b"":
                self.wrong.append("bytes after the end")
        except OSError as error:
            self.wrong.append(repr(error))

    def check(self) -> None:
        before = self.bytes_compared
        until(lambda: self.wrong or self.bytes_compared > before, "bytes back")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()


@pytest.mark.parametrize(
    "reloads", [4, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_reloads_cost_nothing(
    daemon: Start, capsys: pytest.CaptureFixture[str], reloads: int
) -> None:
    """Every other one exchanges the workers; 20 flows are open, and talk, all the time.

    They outlive the workers' drain, whose deadline is therefore longer than the test.
    """
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(lbd_rush.backend())
        service = ld.service([address], timeouts={"drain_s": 3600.0})
        one = daemon(service, workers=2)
        talks = [Talk(service, number) for number in range(20)]
        for talk in talks:
            stack.callback(talk.close)
        started = time.monotonic()
        with lbd_rush.rush(service["listen"], 32) as rush:
            for number in range(reloads):
                weight = {**service["backends"][0], "weight": 1.0 + number}
                rewrite(one, {**service, "backends": [weight]}, workers=2 + number // 2 % 2)
                reload(one)
                for talk in talks:
                    talk.check()
            took_s = time.monotonic() - started
        for talk in talks:
            talk.close()
        compared = sum(talk.bytes_compared for talk in talks)
        with capsys.disabled():
            print(
                f"\n[{reloads} reloads in {took_s:.0f} s, {rush['done']} connections, "
                f"{rush['done'] / took_s:.0f} a second, {rush['failed'] or 'none'} failed; "
                f"20 flows all through, {compared} bytes compared]"
            )
        assert rush["failed"] == {}
        assert rush["done"] > reloads
        assert [talk.wrong for talk in talks] == [[]] * len(talks)
    assert one.stop() == 0
