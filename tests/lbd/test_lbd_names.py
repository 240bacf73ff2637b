"""Names that change, scenario 12: addresses come and go, NXDOMAIN and empty answers do nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.request
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld
import pytest
from dnslib import QTYPE, SRV
from hypothesis import given
from hypothesis import strategies as st
from lbd_backends import Backend, Script, echo
from lbd_client import connect
from lbd_waiting import until
from lbd_zone import Zone

from config.address import Address
from config.names import Dns, Resolver
from config.schema import Backend as BackendConfig
from config.schema import Config
from lbd.names.known import Answer, Found, Known
from lbd.names.lookup import Lookup, LookupFailed
from lbd.names.names import Names

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
pytestmark = pytest.mark.scenario


# -- what follows from an answer


def known(most: int = 8, taken: tuple[str, ...] = ()) -> Known:
    address = Address.parse("web.example:80")
    backend = BackendConfig(name="web", address=address, weight=2.0, dns=Dns(max=most))
    return Known(backend, taken)


def answer(*hosts: int) -> Answer:
    return Answer([Found(Address("tcp", f"10.0.0.{host}", 80)) for host in hosts], 1.0)


def named(one: Known) -> dict[str, str]:
    return {backend.name: backend.address.host for backend in one.backends}


def test_addresses_keep_their_names_while_they_last() -> None:
    one = known(taken=("web-2",))
    assert one.take(answer(1, 2, 3))
    assert named(one) == {"web": "10.0.0.1", "web-3": "10.0.0.2", "web-4": "10.0.0.3"}
    assert not one.take(answer(3, 1, 2))
    assert one.take(answer(3, 2))
    assert named(one) == {"web-3": "10.0.0.2", "web-4": "10.0.0.3"}
    assert one.take(answer(4, 3))
    assert named(one) == {"web": "10.0.0.4", "web-4": "10.0.0.3"}


def test_beyond_the_bound_who_was_there_goes_first() -> None:
    one = known(most=2)
    one.take(answer(5, 6))
    assert not one.take(answer(1, 2, 5, 6))
    assert set(named(one).values()) == {"10.0.0.5", "10.0.0.6"}


def test_an_answer_that_is_not_whole_takes_nobody_away() -> None:
    one = known(most=3)
    one.take(answer(1, 2))
    before = named(one)
    assert not one.take(Answer(answer(1).found, 1.0, whole=False))
    assert named(one) == before
    assert one.take(Answer(answer(3).found, 1.0, whole=False))
    assert len(named(one)) == 3
    one.take(answer(3))
    assert len(named(one)) == 1


def test_a_reconfigured_name_keeps_the_names_of_its_addresses() -> None:
    former = known()
    former.take(answer(1, 2))
    former.take(answer(2))
    address = Address.parse("web.example:80")
    heavier = BackendConfig(name="web", address=address, weight=4.0, dns=Dns())
    one = Known(heavier, (), former)
    one.take(answer(1, 2))
    assert named(one) == {"web-2": "10.0.0.2", "web": "10.0.0.1"}
    assert {backend.weight for backend in one.backends} == {4.0}


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), max_size=8))
def test_names_are_unique_and_steady_whatever_the_answers(answers: list[list[int]]) -> None:
    one = known(most=4)
    before: dict[str, str] = {}
    for hosts in answers:
        one.take(answer(*hosts))
        now = {host: name for name, host in named(one).items()}
        assert len(now) == len(one.backends) == min(4, len(set(hosts)))
        assert all(now[host] == name for host, name in before.items() if host in now)
        before = now


# -- a nameserver of our own


def says(name: bytes) -> Script:
    def script(sock: socket.socket) -> None:
        sock.sendall(name)
        echo(sock)

    return script


@pytest.fixture
def servers(backend: Make) -> tuple[int, dict[str, str]]:
    """A port, and who answers there: one server an address of the loopback."""
    port = ld.free_port()
    hosts = {"127.0.0.1": "a", "127.0.0.2": "b", "127.0.0.3": "c"}
    for host, name in hosts.items():
        backend(says(name.encode()), bind=(host, port))
    return port, hosts


def answering(service: dict[str, Any], flows: int = 8) -> str:
    """Who answers so many new flows."""
    found = set()
    for _ in range(flows):
        with contextlib.suppress(ConnectionError), connect(service) as sock:
            found.add(sock.recv(1).decode())
    return "".join(sorted(found))


def dns_service(name: str, port: int, **dns: Any) -> dict[str, Any]:
    service = ld.service([f"{name}:{port}"], policy="rr", slots=16)
    service["backends"][0]["dns"] = {"every_s": 1, **dns}
    return service


async def test_what_is_found_is_of_the_kind_that_was_named(
    zone: tuple[Zone, dict[str, Any]],
) -> None:
    records, resolver = zone
    records.set("dns.test", "127.0.0.1")
    lookup = Lookup(Resolver.model_validate(resolver))
    for name, found in (("dns.test:53", "127.0.0.1:53"), ("udp:dns.test:53", "udp:127.0.0.1:53")):
        told = await lookup.ask(Address.parse(name), Dns())
        assert [str(one.address) for one in told.found] == [found]


async def test_a_target_that_nobody_answers_for_makes_the_answer_less_than_whole(
    zone: tuple[Zone, dict[str, Any]],
) -> None:
    """As against one that does not exist, or that has the address of nobody."""
    records, resolver = zone
    records.set("here.test", "127.0.0.1", "0.0.0.0")
    lookup = Lookup(Resolver.model_validate({**resolver, "tries": 1}))
    targets = {"here.test": True, "absent.test": True, "broken.test": False}
    records.failing.add("broken.test")
    for at in range(2, 4):
        named = list(targets)[:at]
        records.records["_web._tcp.test", QTYPE.SRV] = [SRV(1, 1, 80, name) for name in named]
        told = await lookup.ask(Address.parse("_web._tcp.test:1"), Dns(kind="srv"))
        assert [str(one.address) for one in told.found] == ["127.0.0.1:80"]
        assert told.whole == all(targets[name] for name in named)
    records.set("nobody.test", "0.0.0.0", "::")
    with pytest.raises(LookupFailed):
        await lookup.ask(Address.parse("nobody.test:80"), Dns())


async def test_a_fault_of_ours_does_not_end_the_watch(
    zone: tuple[Zone, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    records, resolver = zone
    records.set("web.test", "127.0.0.1")
    service = dns_service("web.test", 80)
    config = Config.model_validate({"services": [service], "resolver": resolver})
    told = asyncio.Event()
    calls = 0

    async def changed() -> bool:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("a fault")
        told.set()
        return True

    names = Names(changed)
    await names.prepare(config)
    names.follow(config)
    records.set("web.test", "127.0.0.2")
    await asyncio.wait_for(told.wait(), 60)
    await names.close()
    assert "a fault" in caplog.text
    assert names.lookups_total[service["name"]] >= 3
    assert not names.failures_total


def test_addresses_come_and_go_and_flows_stay(
    daemon: Start, zone: tuple[Zone, dict[str, Any]], servers: tuple[int, dict[str, str]]
) -> None:
    records, resolver = zone
    records.set("web.test", "127.0.0.1", "127.0.0.2")
    service = dns_service("web.test", servers[0])
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, resolver=resolver, metrics=metrics)
    assert answering(service) == "ab"
    with connect(service) as held:
        assert held.recv(1) in b"ab"
        records.set("web.test", "127.0.0.3")
        until(lambda: answering(service) == "c", "the new address alone")
        for _ in range(20):
            held.sendall(b"x")
            assert held.recv(1) == b"x"
        # What was good stays good, whatever becomes of the nameserver.
        for disaster in ("gone", "empty", "broken"):
            asked = records.asked
            if disaster == "gone":
                records.remove("web.test")
            elif disaster == "empty":
                records.set("web.test")
            else:
                records.broken = True
            until(lambda asked=asked: records.asked >= asked + 3, "asked again")
            assert answering(service) == "c"
        records.broken = False
        records.set("web.test", "127.0.0.3", "127.0.0.2")
        until(lambda: answering(service) == "bc", "both")
        held.sendall(b"y")
        assert held.recv(1) == b"y"
    assert "the last addresses stay" in one.log
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=60) as page:
        told = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines())
    assert (
        float(told[f'lbd_frontend_name_lookup_failures_total{{service="{service["name"]}"}}']) > 0
    )


def test_a_service_record_tells_ports_and_weights(
    daemon: Start, zone: tuple[Zone, dict[str, Any]], backend: Make
) -> None:
    records, resolver = zone
    ports = [backend(says(name)).sockaddr[1] for name in (b"a", b"b", b"c")]
    records.set("host.test", "127.0.0.1")
    records.records["_web._tcp.test", QTYPE.SRV] = [
        SRV(1, 30, ports[0], "host.test"),
        SRV(1, 10, ports[1], "host.test"),
        SRV(2, 10, ports[2], "host.test"),
        SRV(1, 10, 9, "absent.test"),
    ]
    service = {**dns_service("_web._tcp.test", 1, kind="srv"), "policy": "wrr"}
    daemon(service, resolver=resolver)
    with ld.attached(service["name"]) as region:
        found = {entry.address: entry.weight for entry in region.entries()}
    assert found == {
        f"127.0.0.1:{ports[0]}": 1.0,
        f"127.0.0.1:{ports[1]}": pytest.approx(1 / 3),
    }
    assert answering(service) == "ab"


@pytest.mark.parametrize(
    ("family", "hosts"),
    [("either", ["127.0.0.1"]), ("ipv6", ["::1"]), ("both", ["127.0.0.1", "::1"])],
)
def test_families_are_as_asked_for(
    daemon: Start, zone: tuple[Zone, dict[str, Any]], family: str, hosts: list[str]
) -> None:
    records, resolver = zone
    records.set("dual.test", "127.0.0.1", "::1")
    service = dns_service("dual.test", 9, family=family)
    daemon(service, resolver=resolver)
    with ld.attached(service["name"]) as region:
        found = [Address.parse(entry.address).host for entry in region.entries()]
    assert sorted(found) == hosts


def test_a_name_without_an_answer_at_the_start_is_named(
    launch: Start, zone: tuple[Zone, dict[str, Any]]
) -> None:
    _, resolver = zone
    one = launch(dns_service("absent.test", 80), resolver=resolver)
    assert one.wait() == 1
    assert "cannot resolve absent.test" in one.log
