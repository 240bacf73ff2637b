"""Backends that refuse, swallow, reset, flap, are all slow, or fail fast: what clients see."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from crowd import Crowd, send
from lbd_backends import Backend, close_at_once, echo, reset
from lbd_client import served
from lbd_supervised import told
from lbd_waiting import until

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.live import ServiceAgent
from config.address import Address
from config.schema import POLICIES
from config.schema import Agent as AgentConfig

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
FLOWS = [200, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]


def tell(capsys: pytest.CaptureFixture[str], what: str, crowd: Crowd) -> None:
    with capsys.disabled():
        print(f"\n[{what}: {crowd}]")


class Flapping:
    """An echo server that listens only every other moment."""

    def __init__(self, make: Make) -> None:
        self._port = ld.free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._make = make
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flap)
        self._thread.start()

    def _flap(self) -> None:
        while not self._stop.is_set():
            one = self._make(echo, bind=("127.0.0.1", self._port))
            self._stop.wait(0.1)
            # Shut first: who waits to be accepted is reset, as by a server that is killed.
            one.listener.shutdown(socket.SHUT_RDWR)
            one.listener.close()
            self._stop.wait(0.1)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def faulty(backend: Make) -> Iterator[Callable[[str], str]]:
    """The address of a backend with a fault."""
    with contextlib.ExitStack() as stack:

        def start(fault: str) -> str:
            if fault == "flaps":
                flapping = Flapping(backend)
                stack.callback(flapping.close)
                return flapping.address
            if fault == "resets":
                return backend(reset).address
            if fault == "closes":
                return backend(close_at_once).address
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            if fault == "swallows":
                sock.listen(0)
                stack.enter_context(socket.create_connection(sock.getsockname(), 10))
            return f"127.0.0.1:{sock.getsockname()[1]}"

        yield start


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize("fault", ["refuses", "swallows", "flaps"])
def test_a_backend_that_cannot_be_connected_to_costs_no_flow(
    daemon: Start,
    backend: Make,
    faulty: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    fault: str,
    flows: int,
) -> None:
    addresses = [faulty(fault), backend(echo).address, backend(echo).address]
    service = ld.service(
        addresses,
        policy="rr",
        timeouts={"connect_ms": 100},
        retry={"budget": 1.0},
        health={"passive": {"failures": 3, "eject_s": 0.5}},
    )
    daemon(service, workers=2)
    crowd = asyncio.run(send(service, flows, 50))
    tell(capsys, f"one of three {fault}", crowd)
    found = served(service["name"], flows)
    if fault != "flaps":
        assert (crowd.whole, crowd.failed) == (flows, 0)
        assert ld.state_word(service["name"], "b0", "ejections_total") > 0
    else:
        # Reset in its accept queue, with bytes that it had taken: the client's to know.
        assert crowd.wrong == 0
        assert crowd.failed <= found["backend_reset_total"] - found["redispatched_total"] + (
            found["connect_failed_total"] + found["connect_timeout_total"]
        )


@pytest.mark.parametrize("flows", FLOWS)
@pytest.mark.parametrize("fault", ["resets", "closes"])
def test_a_backend_that_accepts_and_fails_is_ejected_soon(
    daemon: Start,
    backend: Make,
    faulty: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
    fault: str,
    flows: int,
) -> None:
    """What it has taken is lost; what comes after its ejection is not."""
    addresses = [faulty(fault), backend(echo).address, backend(echo).address]
    service = ld.service(
        addresses, policy="rr", health={"passive": {"failures": 3, "eject_s": 600.0}}
    )
    name = service["name"]
    daemon(service, workers=2)
    first = asyncio.run(send(service, 60, 4))
    until(lambda: ld.states(name)["b0"] == "ejected", "ejected")
    told(name)
    crowd = asyncio.run(send(service, flows, 50, first=60))
    tell(capsys, f"one of three {fault}, before its ejection", first)
    tell(capsys, f"one of three {fault}, after its ejection", crowd)
    assert (crowd.whole, crowd.failed) == (flows, 0)
    assert first.wrong == 0


def test_where_all_are_equally_slow_none_is_ejected(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowly(sock: socket.socket) -> None:
        time.sleep(0.3)
        echo(sock)

    service = ld.service(
        [backend(slowly).address for _ in range(4)],
        health={"passive": {"failures": 1}, "check": {"interval_ms": 50, "timeout_ms": 30_000}},
    )
    daemon(service, workers=2)
    crowd = asyncio.run(send(service, 200, 40))
    tell(capsys, "all slow", crowd)
    assert crowd.whole == 200
    for number in range(4):
        assert ld.state_word(service["name"], f"b{number}", "ejections_total") == 0
        assert ld.state_word(service["name"], f"b{number}", "downs_total") == 0
    assert set(ld.states(service["name"]).values()) == {"up"}


# -- who fails fast


def waits(sock: socket.socket) -> None:
    """An answer takes a moment: queues of those that serve are longer than of those that fail."""
    if sock.recv(100):
        time.sleep(0.02)
        sock.sendall(b"answer")


def share_of_b0(service: dict[str, Any], flows: int) -> float:
    """Its share of the flows that are sent now, eight at a time; clients never retry."""
    before = ld.snapshot(service["name"]).totals["flows_total"]

    address = Address.parse(service["listen"])

    def ask_some(lane: int) -> None:
        for number in range(flows // 8):
            # Many clients, for policies that keep one client in one place.
            source = (f"127.0.{lane}.{number + 1}", 0)
            with (
                contextlib.suppress(ConnectionError),
                socket.create_connection((address.host, address.port), 60, source) as sock,
            ):
                sock.sendall(b"?")
                sock.recv(100)

    threads = [threading.Thread(target=ask_some, args=(lane,)) for lane in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served(service["name"], int(before.sum()) + flows)
    after = ld.snapshot(service["name"]).totals["flows_total"]
    return float((after - before)[0] / (after - before).sum())


@pytest.mark.parametrize("policy", POLICIES)
def test_who_resets_at_once_gets_less_whatever_the_policy(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    service = ld.service(
        [backend(reset).address, backend(waits).address, backend(waits).address],
        policy=policy,
        retry={"others": 0},
    )
    daemon(service)
    share_of_b0(service, 80)
    share = share_of_b0(service, 240)
    with capsys.disabled():
        print(f"\n[{policy}: the one of three that resets at once got {share:.1%} of the flows]")
    assert share < 1 / 6


@pytest.fixture
def real_agent(tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], ServiceAgent]]:
    """An agent with an untrained policy, stepped by a thread until the test ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    path = tmp_path / f"policy-{os.getpid()}-{secrets.token_hex(2)}.safetensors"
    arrays = {f"actor.{key}": array for key, array in fresh_parameters(0).items()}
    checkpoint.save(checkpoint.Saved(arrays, {}), path)

    def start(service: dict[str, Any]) -> ServiceAgent:
        settings = AgentConfig(mode="frozen", checkpoint=path, interval_ms=50, expiry_ms=60_000)
        agent = ServiceAgent(service["name"], settings, 64)

        def step() -> None:
            while not stop.wait(0.05):
                agent.step(time.monotonic_ns())
            agent.close()

        threads.append(threading.Thread(target=step))
        threads[-1].start()
        return agent

    yield start
    stop.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("faults", ["always", "two of three"])
def test_who_fails_fast_gets_less_from_the_agent(
    daemon: Start,
    backend: Make,
    real_agent: Callable[[dict[str, Any]], ServiceAgent],
    capsys: pytest.CaptureFixture[str],
    faults: str,
) -> None:
    """Without ejection: the weights alone, from what the observation charges."""
    count = iter(range(10**9))

    def sometimes(sock: socket.socket) -> None:
        waits(sock) if next(count) % 3 == 0 else reset(sock)

    bad = backend(reset if faults == "always" else sometimes)
    service = ld.service(
        [bad.address, backend(waits).address, backend(waits).address],
        policy="sed",
        weights="agent",
        fallback="rr",
        retry={"others": 0},
        health={"passive": None},
    )
    daemon(service)
    real_agent(service)
    share_of_b0(service, 240)
    until(lambda: _in_force(service["name"]), "weights in force")
    share = share_of_b0(service, 240)
    with capsys.disabled():
        print(f"\n[agent: the one of three that resets {faults} got {share:.1%} of the flows]")
    assert share < 1 / 3


def _in_force(name: str) -> bool:
    with ld.attached(name) as region:
        return bool(ld.scalar(region, 0, "weights_in_force"))
