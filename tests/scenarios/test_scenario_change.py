"""Scenario 9: backends are added, drained and removed under traffic; hashed clients stay."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from crowd import Crowd, send_while
from lbd_backends import Backend, Script, echo
from lbd_client import served
from lbd_waiting import until

from config.address import Address

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


async def reload(one: ld.Daemon, service: dict[str, Any], workers: int) -> None:
    """Another configuration of the service, taken into force."""

    def told() -> None:
        one.path.write_text(
            yaml.safe_dump({"workers": workers, "services": [service]}, sort_keys=False)
        )
        before = one.log.count("reloaded")
        one.send(signal.SIGHUP)
        until(lambda: one.log.count("reloaded") > before, "reloaded")
        assert "not reloaded" not in one.log, one.log

    await asyncio.to_thread(told)


@pytest.mark.parametrize(
    "rounds", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_backends_come_and_go_under_traffic_and_no_flow_is_lost(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], rounds: int
) -> None:
    """Each round one is added and starts slowly, one is drained, emptied and removed."""
    servers = [backend(echo).address for _ in range(rounds + 3)]
    health = {"slow_start": {"window_s": 0.5, "floor": 0.2}}
    service = ld.service(servers[:3], health=health, slots=8)
    name = service["name"]
    one = daemon(service, workers=2)
    workers = one.workers()
    going = True
    shares: set[float] = set()

    async def change() -> Crowd:
        nonlocal going
        traffic = asyncio.create_task(send_while(service, 12, lambda: going))
        for number in range(rounds):
            leaves, comes = f"b{number}", f"b{number + 3}"
            newcomer = {"name": comes, "address": servers[number + 3]}
            service["backends"] = [*service["backends"], newcomer]
            await reload(one, service, 2)
            await asyncio.to_thread(until, lambda c=comes: ld.states(name)[c] == "slow_start", "it")
            await asyncio.to_thread(
                until,
                lambda c=comes: shares.add(ld.share(name, c)) or ld.states(name)[c] == "up",
                "its full share",
            )
            # It may have come up between the looks at its share and at its state.
            shares.add(ld.share(name, comes))
            service["backends"][0]["state"] = "drain"
            await reload(one, service, 2)
            assert leaves not in ld.usable(name)

            def empty(slot: int) -> bool:
                found = ld.snapshot(name)
                return int(found.flows[list(found.slots).index(slot)]) == 0

            with ld.attached(name) as region:
                slot = next(entry.slot for entry in region.entries() if entry.name == leaves)
            await asyncio.to_thread(until, lambda s=slot: empty(s), "no flow left on it")
            service["backends"] = service["backends"][1:]
            await reload(one, service, 2)
            await asyncio.to_thread(until, lambda b=leaves: b not in ld.states(name), "gone")
        going = False
        return await traffic

    crowd = asyncio.run(change())
    with capsys.disabled():
        print(f"\n[{rounds} backends added, {rounds} drained and removed: {crowd}]")
    assert (crowd.failed, crowd.wrong) == (0, 0)
    assert min(shares) < 0.5
    assert max(shares) == 1.0
    assert one.workers() == workers
    until(lambda: ld.totals(name)["flows"] == 0, "all flows over")


def named(name: bytes) -> Script:
    """Says who it is, and echoes."""

    def script(sock: socket.socket) -> None:
        sock.sendall(name)
        echo(sock)

    return script


BACKENDS = 10


@pytest.mark.parametrize("policy", ["maglev", "source_hash"])
@pytest.mark.parametrize(
    "clients", [200, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_a_backend_that_goes_and_comes_moves_its_own_clients(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], policy: str, clients: int
) -> None:
    """One of ten: about a tenth moves, and with its return everybody is back where he was."""
    servers = [backend(named(b"%d" % number)) for number in range(BACKENDS)]
    service = ld.service([one.address for one in servers], policy=policy)
    one = daemon(service, workers=2)
    name = service["name"]
    address = Address.parse(service["listen"])
    asked = 0

    def homes() -> list[bytes]:
        """Who serves each client; one after the other, so that no bound on loads moves any."""
        nonlocal asked
        found = []
        for number in range(clients):
            source = (f"127.{2 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}", 0)
            with socket.create_connection((address.host, address.port), 60, source) as sock:
                found.append(sock.recv(1))
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1) == b""
        asked += clients
        served(name, asked)
        return found

    async def without(gone: int | None) -> None:
        for number, entry in enumerate(service["backends"]):
            entry["state"] = "drain" if number == gone else "ready"
        await reload(one, service, 2)

    before = homes()
    asyncio.run(without(3))
    during = homes()
    asyncio.run(without(None))
    after = homes()
    moved = sum(a != b for a, b in zip(before, during, strict=True))
    own = before.count(b"3")
    elsewhere = sum(a != b for a, b in zip(before, after, strict=True))
    with capsys.disabled():
        print(
            f"\n[{policy}: {clients} clients, one backend of {BACKENDS} drained: {moved} moved, "
            f"{moved - own} of them others'; after its return {elsewhere} elsewhere than before]"
        )
    assert b"3" not in during
    # NSDI'16 section 5.3: a few per cent of the rest move with it.
    assert moved - own < 0.1 * clients
    assert after == before
