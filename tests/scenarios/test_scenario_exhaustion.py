"""Scenario 11: floods of SYNs and of silent connections, the want of descriptors and of ports."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import lbd_daemon as ld
import pytest
from crowd import Crowd, send
from lbd_backends import Backend, echo
from lbd_client import served
from lbd_waiting import until
from own_network import OURS, counters, in_own_network

from config.address import Address

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(600)]
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
FLOWS = [200, pytest.param(5000, marks=pytest.mark.slow)]


def tell(capsys: pytest.CaptureFixture[str], what: str, crowd: Crowd) -> None:
    with capsys.disabled():
        print(f"\n[{what}: {crowd}]")


# -- SYNs


def _syn(source: bytes, source_port: int, port: int, sequence: int) -> bytes:
    """RFC 793: a segment from anywhere that asks for a connection to OURS; its sum is right."""
    target = socket.inet_aton(OURS)
    head = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, 0x02, 64240, 0, 0)
    pseudo = source + target + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head))
    total = sum(struct.unpack(f"!{len(pseudo + head) // 2}H", pseudo + head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    segment = head[:16] + struct.pack("!H", ~total & 0xFFFF) + head[18:]
    length = 20 + len(segment)
    packet = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_TCP, 0)
    return packet + source + target + segment


@contextlib.contextmanager
def syn_flood(port: int, at_least: int) -> Iterator[list[int]]:
    """From ever new addresses that answer nothing; as many as the list's one number are out."""
    out, over = [0], threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            while out[0] < at_least or not over.is_set():
                number = out[0]
                source = struct.pack("!I", 0x0A000001 + number % 0xFFFFF0)
                raw.sendto(_syn(source, 1024 + number % 60_000, port, number), (OURS, 0))
                out[0] += 1
                if number % 50 == 49:
                    time.sleep(0.001)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield out
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("flows", FLOWS)
def test_who_means_it_gets_in_beside_a_syn_flood(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], flows: int
) -> None:
    """The queue of half-open connections is full: the kernel's cookies stand in for it."""

    def work() -> tuple[Crowd, int, int]:
        service = ld.service([backend(echo).address], listen=f"{OURS}:{ld.free_port()}")
        daemon(service, workers=2)
        port = Address.parse(service["listen"]).port
        with syn_flood(port, at_least=20_000) as out:
            until(lambda: counters("TcpExt")["SyncookiesSent"] > 0, "the queue full")
            crowd = asyncio.run(send(service, flows, 20))
        served(service["name"], flows)
        return crowd, out[0], counters("TcpExt")["SyncookiesSent"]

    crowd, syns, cookies = in_own_network(work)
    tell(capsys, f"{syns} SYNs from nowhere, {cookies} answered by cookies", crowd)
    assert (crowd.whole, crowd.failed, crowd.wrong) == (flows, 0, 0)


# -- silent connections


@pytest.mark.parametrize(
    ("silent", "flows", "first_byte_s"),
    [(40, 20, 0.8), pytest.param(2000, 200, 1.0, marks=pytest.mark.slow)],
)
def test_who_speaks_is_served_beside_a_flood_of_silent_connections(
    daemon: Start,
    backend: Make,
    capsys: pytest.CaptureFixture[str],
    silent: int,
    flows: int,
    first_byte_s: float,
) -> None:
    """Four times as many silent ones as the service takes, and whoever is ended comes again.

    One process plays them all: the limit leaves it the time to speak where it means to.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    service = ld.service(
        [backend(echo).address], max_connections=silent // 4, limits={"first_byte_s": first_byte_s}
    )
    daemon(service, workers=2)
    over = asyncio.Event()
    came = 0

    async def keep_silent() -> None:
        nonlocal came
        address = Address.parse(service["listen"])
        while not over.is_set():
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                came += 1
                try:
                    await reader.read(1)
                finally:
                    writer.transport.abort()

    async def flood() -> Crowd:
        async with asyncio.timeout(500):
            idlers = [asyncio.create_task(keep_silent()) for _ in range(silent)]
            crowd = await send(service, flows, 10)
            over.set()
            for idler in idlers:
                idler.cancel()
            await asyncio.gather(*idlers, return_exceptions=True)
        return crowd

    crowd = asyncio.run(flood())
    tell(capsys, f"{came} silent connections", crowd)
    assert (crowd.whole, crowd.failed, crowd.wrong) == (flows, 0, 0)
    assert ld.totals(service["name"])["slow_client_total"] > 0


# -- descriptors


@pytest.mark.parametrize("flows", FLOWS)
def test_out_of_descriptors_clients_wait_and_none_is_lost(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], flows: int
) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    service = ld.service([backend(echo).address])
    daemon(service, workers=2, preexec_fn=few)
    crowd = asyncio.run(send(service, flows, 150))
    tell(capsys, "150 clients at once, 64 descriptors a process", crowd)
    assert (crowd.whole, crowd.failed, crowd.wrong) == (flows, 0, 0)
    found = served(service["name"], flows)
    assert found["local_failed_total"] == 0
    assert ld.scalars(service["name"])["accept_failed_total"] == 0


# -- ports


PORTS = 40


def test_out_of_ports_to_one_backend_flows_go_to_others_and_to_none_are_the_balancers_fault(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each backend can be reached from PORTS ports. What finds none is no fault of a backend's."""

    numbers = itertools.count()

    def opened(service: dict[str, Any], count: int) -> list[socket.socket]:
        """Those of `count` connections that an echo answers; each from an address of its own."""
        kept = []
        address = Address.parse(service["listen"])
        for number in itertools.islice(numbers, count):
            source = (f"127.1.{number // 250}.{number % 250 + 1}", 20_000)
            with contextlib.suppress(ConnectionError), contextlib.ExitStack() as stack:
                target = (address.host, address.port)
                sock = stack.enter_context(socket.create_connection(target, 60, source))
                sock.sendall(b"x")
                if sock.recv(1) == b"x":
                    kept.append(sock)
                    stack.pop_all()
        return kept

    def work() -> tuple[int, dict[str, int], Crowd]:
        # No port of those that are short: one that is bound is lost for who chooses at connect.
        addresses = [backend(echo, bind=("127.0.0.1", 20_001 + n)).address for n in range(2)]
        # All that can go to the first does, and the rest to the second.
        service = ld.service(addresses, listen="127.0.0.1:20000", retry={"budget": 1.0})
        service["backends"][0]["weight"] = 1000.0
        name = service["name"]
        daemon(service)
        first = opened(service, 2 * PORTS)
        assert len(first) == 2 * PORTS
        until(lambda: ld.totals(name)["redispatched_total"] == PORTS, "the second half's way")
        assert ld.totals(name)["local_failed_total"] == PORTS
        assert opened(service, 10) == []
        # Each of the ten had tried both.
        until(lambda: ld.totals(name)["local_failed_total"] == PORTS + 20, "ten failed")
        found = ld.totals(name)
        assert set(ld.states(name).values()) == {"up"}
        for sock in first:
            sock.sendall(b"y")
            assert sock.recv(1) == b"y"
            sock.close()
        until(lambda: ld.totals(name)["flows"] == 0, "all flows over")
        # A port that the balancer closed first may be used again after a second (tcp_tw_reuse).
        until(lambda: asyncio.run(send(service, 1, 1)).whole == 1, "ports again")
        crowd = asyncio.run(send(service, PORTS // 2, 1))
        return len(first), found, crowd

    kept, found, crowd = in_own_network(
        work, {"ipv4.ip_local_port_range": f"40000 {40000 + PORTS - 1}"}
    )
    tell(
        capsys,
        f"{kept} flows through {PORTS} ports a backend, {found['redispatched_total']} "
        "redispatched, 10 beyond them failed; after it",
        crowd,
    )
    assert sum(found[key] for key in ("connect_failed_total", "backend_reset_total")) == 0
    assert (crowd.whole, crowd.failed) == (PORTS // 2, 0)
