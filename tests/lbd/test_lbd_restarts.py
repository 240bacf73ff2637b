"""Deaths, alone and in any order: what dies takes its own with it, and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo, read_all
from lbd_client import FakeAgent, ask, connect, refused, settled
from lbd_waiting import until

from shm.worker import flows_view

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


def worker_of_flow(name: str, before: list[float]) -> int:
    """The index of the worker whose q has grown."""

    def look() -> list[int]:
        return [w for w, q in enumerate(live_q(name)) if q > before[w]]

    return until(look, "a worker with the flow")[0]


def live_q(name: str) -> list[float]:
    with ld.attached(name) as region:
        return [float(q) for q in flows_view(region).sum(axis=1)]


def flow_on_each_worker(service: dict[str, Any], count: int) -> tuple[dict[int, Any], int]:
    """One open connection on every worker, and how many it took: the kernel spreads as it likes."""
    found: dict[int, Any] = {}
    for tried in range(1, 201):
        before = live_q(service["name"])
        sock = connect(service)
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        worker = worker_of_flow(service["name"], before)
        if worker in found:
            sock.close()
            until(lambda b=before: live_q(service["name"]) == b, "the spare flow over")
        else:
            found[worker] = sock
        if len(found) == count:
            return found, tried
    raise AssertionError("the kernel gave one worker everything")


def test_a_killed_worker_takes_only_its_own_flows(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is refused while its successor starts; its counts leave q and stay in the totals."""
    service = ld.service([backend(echo).address])
    name = service["name"]
    daemon(service, workers=2)
    for _ in range(20):
        ask(service)
    settled(name, 20)
    socks, tried = flow_on_each_worker(service, 2)
    with ld.attached(name) as region:
        victim = ld.worker_pids(region)[0]
        # Frames lag behind what was accepted by a refresh.
        until(lambda: ld.totals(name)["flows_total"] == 20 + tried, "all flows published")
        before = ld.totals(name)
        started = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        # Its kernel closes what it had: an end of file where all bytes were read.
        assert socks[0].recv(1) == b""
        assert [ask(service, b"%d" % n) for n in range(20)] == [b"%d" % n for n in range(20)]
        until(lambda: ld.worker_pids(region)[0] not in (0, victim), "a successor")
        until(lambda: ld.heartbeats(region)[0] > 0, "a successor at work")
        took_s = time.monotonic() - started
    with capsys.disabled():
        print(f"\n[worker killed: successor at work after {took_s:.2f} s]")
    socks[1].sendall(b"b")
    assert socks[1].recv(1) == b"b"
    flows = before["flows_total"] + 20
    until(lambda: ld.totals(name)["flows_total"] == flows, "all flows counted")
    until(lambda: ld.totals(name)["flows"] == 1, "the dead worker's flow out of q")
    after = ld.totals(name)
    assert after["flows_total"] == flows
    assert all(after[key] >= before[key] for key in before if key.endswith("_total"))
    for sock in socks.values():
        sock.close()
    until(lambda: ld.totals(name)["flows"] == 0, "no flow left")


def test_connections_wait_while_all_workers_are_dead(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    for pid in one.workers():
        os.kill(pid, signal.SIGKILL)
    assert [ask(service, b"%d" % n) for n in range(10)] == [b"%d" % n for n in range(10)]


def test_a_killed_supervisor_is_replaced_and_its_workers_finish(
    daemon: Start, launch: Start, backend: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    orphans = one.workers()
    with connect(service) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        with ld.attached(service["name"]) as region:
            generation = region.generation
        one.send(signal.SIGKILL)
        one.wait()
        started = time.monotonic()
        two = launch(service, workers=2).start()
        took_s = time.monotonic() - started
        with capsys.disabled():
            print(f"\n[supervisor killed: successor serves {took_s:.2f} s after its start]")
        with ld.attached(service["name"]) as region:
            assert region.generation != generation
            assert region.owner_pid == two.pid
        assert ask(service) == b"ping"
        sock.sendall(b"b")
        assert sock.recv(1) == b"b"
    until(lambda: not any(map(ld.is_alive, orphans)), "orphans gone")
    assert two.stop() == 0


def test_orphaned_workers_without_flows_exit(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service, workers=2)
    orphans = one.workers()
    one.send(signal.SIGKILL)
    one.wait()
    until(lambda: not any(map(ld.is_alive, orphans)), "orphans gone")
    assert refused(service)
    # What a killed supervisor leaves is its successor's to replace.
    assert ld.segment_path(service["name"]).exists()
    assert daemon(service, workers=2).stop() == 0


@pytest.mark.parametrize(
    "order", ["worker supervisor agent", "agent worker supervisor", "supervisor agent worker"]
)
def test_deaths_in_any_order_are_recovered_from(daemon: Start, backend: Make, order: str) -> None:
    service = ld.service([backend(echo).address], weights="agent", policy="sed")
    one = daemon(service, workers=2)
    agent = FakeAgent(service["name"])
    agent.give(1.0)
    for victim in order.split():
        if victim == "worker" and one.process.poll() is None:
            os.kill(one.workers()[0], signal.SIGKILL)
            assert ask(service) == b"ping"
            one.start()
        elif victim == "supervisor":
            one.send(signal.SIGKILL)
            one.wait()
            one = daemon(service, workers=2)
        elif victim == "agent":
            agent.close()
    agent.close()
    agent = FakeAgent(service["name"])
    agent.give(1.0)
    until(lambda: ld.scalars(service["name"])["frames_applied_total"] >= 2, "weights applied")
    agent.close()
    assert ask(service) == b"ping"
    assert one.stop() == 0


def test_a_restarted_worker_takes_the_weights_that_still_hold(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], weights="agent")
    one = daemon(service)
    agent = FakeAgent(service["name"])
    agent.give(1.0)
    with ld.attached(service["name"]) as region:
        until(lambda: ld.scalar(region, 0, "weights_in_force"), "weights in force")
        victim = one.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(
            lambda: (
                ld.worker_pids(region)[0] not in (0, victim)
                and ld.scalar(region, 0, "weights_in_force")
            ),
            "weights in force at the successor",
        )
    agent.close()


def test_a_stopped_agent_gives_way_to_the_fallback_and_is_heard_again(
    daemon: Start, backend: Make
) -> None:
    """A real process that writes a frame every 20 ms, valid for 300 ms; SIGSTOP, then SIGCONT."""
    service = ld.service([backend(echo).address], weights="agent")
    daemon(service)
    name = service["name"]
    pid = os.fork()
    if not pid:
        agent = FakeAgent(name)
        while os.getppid() != 1:
            agent.give(1.0, expiry_s=0.3)
            time.sleep(0.02)
        os._exit(0)
    try:
        with ld.attached(name) as region:

            def in_force() -> bool:
                return bool(ld.scalar(region, 0, "weights_in_force"))

            until(in_force, "weights in force")
            os.kill(pid, signal.SIGSTOP)
            until(lambda: not in_force(), "the fallback")
            assert ask(service) == b"ping"
            os.kill(pid, signal.SIGCONT)
            until(in_force, "weights in force again")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced(daemon: Start, backend: Make) -> None:
    """Stopped, it gets no SIGABRT: only SIGKILL ends it."""
    service = ld.service([backend(echo).address])
    one = daemon(service)
    victim = one.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    until(lambda: not ld.is_alive(victim), "the hung worker gone")
    assert ask(service) == b"ping"
    assert one.stop() == 0


def test_no_byte_is_lost_while_workers_are_killed_around_a_flow(
    daemon: Start, backend: Make
) -> None:
    service = ld.service([backend(echo).address])
    daemon(service, workers=2)
    socks, _ = flow_on_each_worker(service, 2)
    with ld.attached(service["name"]) as region:
        for _ in range(2):
            victim = ld.worker_pids(region)[1]
            os.kill(victim, signal.SIGKILL)
            socks[0].sendall(b"x" * 1000)
            assert len(socks[0].recv(1000, 0x100)) == 1000  # MSG_WAITALL
            until(lambda v=victim: ld.worker_pids(region)[1] not in (0, v), "a successor")
            until(lambda: ld.heartbeats(region)[1] > 0, "a successor at work")
    socks[0].shutdown(1)
    assert read_all(socks[0]) == b""
    for sock in socks.values():
        sock.close()
