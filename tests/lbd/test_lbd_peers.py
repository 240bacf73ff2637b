"""Balancers that tell each other their queues: real supervisors on loopback, and one in here.

They are on one machine, so their services have names of their own, and one among peers.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic_ns
from typing import Any

import lbd_daemon as ld
import numpy as np
import pytest
from lbd_backends import Backend, echo, hold
from lbd_client import ask, connect
from lbd_supervised import settle, told
from lbd_waiting import until
from test_lbd_metrics import scrape, total, value
from test_lbd_reload import reload, rewrite

from config.address import Address
from config.peers import Peers as PeersConfig
from lbctl import cli
from lbctl.client import Client
from lbd.peers.known import Refusal
from lbd.peers.members import Members
from lbd.peers.talk import FIGURES_MS, SecretError, Settings, Talk
from lbd.wire.peers import WORDS, Part, encode, key, pack_figures, pack_keys
from shm.layout import Layout
from shm.peers import PeerRows
from shm.reader import Reader
from shm.region import Region
from testbed.processes import free_ports

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
MS = 10**6
FORGET_MS = 10_000


def among(ports: list[int], own: int, **settings: Any) -> dict[str, Any]:
    """The section of the balancer at ports[own]; its own address is among the members.

    With more patience than by default: this machine is shared.
    """
    members = [f"127.0.0.1:{port}" for port in ports]
    return {"listen": members[own], "members": members, "forget_ms": 2000, **settings}


def heard_q(service: dict[str, Any]) -> dict[str, int] | None:
    """The others' flows by address; None where nobody is heard."""
    with ld.attached(service["name"]) as region:
        rows = PeerRows(region)
        if not rows.heard(monotonic_ns()):
            return None
        return {entry.address: int(rows.q[entry.slot]) for entry in region.entries()}


@pytest.fixture
def flows() -> Iterator[Callable[[dict[str, Any]], socket.socket]]:
    """Open one; closed after the test."""
    with ExitStack() as stack:
        yield lambda service: stack.enter_context(connect(service))


def test_what_one_carries_makes_the_other_avoid_it_and_is_nobody_elses(
    daemon: Start,
    backend: Make,
    flows: Callable[[dict[str, Any]], socket.socket],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy, idle = backend(hold).address, backend(hold).address
    ports = free_ports(2)
    metrics = f"127.0.0.1:{ld.free_port()}"
    first = ld.service([busy], policy="lsq", shared_as="web")
    second = ld.service([busy, idle], policy="lsq", shared_as="web")
    second["backends"][0]["max_connections"] = 2
    one = daemon(first, peers=among(ports, 0))
    api = f"unix:{tmp_path}/api.sock"
    daemon(second, peers=among(ports, 1), metrics=metrics, api={"listen": api}, workers=2)
    for _ in range(5):
        flows(first)
    until(lambda: heard_q(second) == {busy: 5, idle: 0}, "five flows told")
    told(second["name"])
    for count in range(1, 8):
        flows(second)
        until(lambda n=count: ld.snapshot(second["name"]).flows.sum() == n, "one more")
        if count <= 5:
            assert ld.snapshot(second["name"]).flows.tolist() == [0, count]
    # Where they are level the busy one gets its own, below a limit that the others do not fill.
    assert ld.snapshot(second["name"]).flows.tolist() == [1, 6]
    until(lambda: heard_q(first) == {busy: 1}, "those of the second, of a backend that is here")

    # The agent sees all of them; limits, gauges and totals are of this balancer's own.
    with ld.attached(second["name"]) as region:
        assert Reader(region).snapshot(monotonic_ns(), peers=True).flows.tolist() == [6, 6]
    seen = scrape(metrics)
    assert value(seen, "lbd_server_current_sessions", backend="b0") == 1
    assert value(seen, "lbd_server_current_sessions", backend="b1") == 6
    assert total(seen, "lbd_server_sessions_total") == 7
    peer = {"peer": f"127.0.0.1:{ports[0]}"}
    assert value(seen, "lbd_peer_up", **peer) == 1
    assert value(seen, "lbd_peer_datagrams_received_total", **peer) > 0
    client = Client(f"{tmp_path}/api.sock")
    found = client.ask("GET", "peers")["peers"]
    assert [(row["peer"], row["up"]) for row in found] == [(peer["peer"], True)]
    assert cli.main(["--socket", client.path, "peers"]) == 0
    assert peer["peer"] in capsys.readouterr().out
    explained = client.ask("GET", "services", second["name"], "explain")["workers"]
    assert [row["q"] for row in explained[0]["backends"]] == [6.0, 6.0]

    # With the first one gone, the next goes where this balancer has fewest.
    one.send(signal.SIGKILL)
    one.wait()
    until(lambda: heard_q(second) is None, "the first one forgotten")
    told(second["name"])
    flows(second)
    until(lambda: ld.snapshot(second["name"]).flows.tolist() == [2, 6], "own view alone")
    seen = scrape(metrics)
    assert value(seen, "lbd_peer_up", **peer) == 0
    assert value(seen, "lbd_peer_heard_age_seconds", **peer) > 0
    # What a killed supervisor leaves is its successor's to replace.
    daemon(first, peers=among(ports, 0))
    until(lambda: heard_q(second) == {busy: 0, idle: 0}, "its successor heard")


def test_who_has_another_key_is_refused_and_counted(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    address = backend(echo).address
    ports = free_ports(3)
    metrics = f"127.0.0.1:{ld.free_port()}"
    services = [ld.service([address], shared_as="web") for _ in range(3)]
    for number, secret in enumerate((b"the right one, of length", b"the wrong one, of length")):
        (tmp_path / f"key{number}").write_bytes(secret)
    right = {"key_file": str(tmp_path / "key0")}
    daemon(services[0], peers=among(ports, 0, **right), metrics=metrics)
    stranger = daemon(services[1], peers=among(ports, 1, key_file=str(tmp_path / "key1")))
    refused = "lbd_peer_datagrams_refused_total"
    until(lambda: value(scrape(metrics), refused, reason="unproven") > 5, "refusals counted")
    assert value(scrape(metrics), "lbd_peer_up", peer=f"127.0.0.1:{ports[1]}") == 0
    daemon(services[2], peers=among(ports, 2, **right))
    until(lambda: heard_q(services[0]) == {address: 0}, "the one with the right key")
    assert value(scrape(metrics), "lbd_peer_up", peer=f"127.0.0.1:{ports[1]}") == 0
    assert heard_q(services[1]) is None

    # The right key in its file: in force with the next reload, no worker is exchanged.
    workers = stranger.workers()
    (tmp_path / "key1").write_bytes(b"the right one, of length\n")
    reload(stranger)
    until(lambda: heard_q(services[1]) == {address: 0}, "heard once it has the key")
    assert stranger.workers() == workers


def test_peers_are_reloaded_and_a_bad_key_changes_nothing(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    address = backend(echo).address
    ports = free_ports(3)
    service, other = (ld.service([address], shared_as="web") for _ in range(2))
    one = daemon(service)
    daemon(other, peers=among(ports, 1))
    assert not heard_here(service)
    (tmp_path / "short").write_bytes(b"short")
    for wrong, says in (
        (among(ports, 0, key_file=str(tmp_path / "short")), "5 bytes, of at least 16"),
        (among(ports, 0, key_file=str(tmp_path / "none")), "No such file"),
        (among(ports, 1), "the address is in use"),
    ):
        rewrite(one, service, peers=wrong)
        reload(one, says)
        assert not heard_here(service)
    rewrite(one, service, peers=among(ports, 0))
    reload(one)
    until(lambda: heard_here(service) and heard_q(service) == {address: 0}, "heard")
    until(lambda: len(one.workers()) == 1, "the former worker gone")
    workers = one.workers()
    # To where nobody listens; then from another port, which the other knows too.
    rewrite(one, service, peers={**among(ports, 0), "members": [f"127.0.0.1:{ports[2]}"]})
    reload(one)
    until(lambda: heard_q(service) is None, "nobody there")
    rewrite(one, service, peers=among(ports, 2))
    reload(one)
    until(lambda: heard_q(service) == {address: 0}, "heard at another address")
    assert one.workers() == workers
    assert ask(service) == b"ping"
    rewrite(one, service)
    reload(one)
    assert not heard_here(service)


def heard_here(service: dict[str, Any]) -> bool:
    """Whether its region has room for what peers tell."""
    with ld.attached(service["name"]) as region:
        return bool(region.layout.peers)


# -- one balancer in here, whose peers are this test


class Elsewhere:
    """Another balancer's socket, and datagrams of its making."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(60)
        self.at = self.sock.getsockname()
        self.sequence = 0

    def tell(self, address: str, q: int, name: str = "web", sender: int = 5, **more: Any) -> bytes:
        words = np.zeros((WORDS, 1), dtype=np.int64)
        words[1:] = more.get("answers", 0)
        part = Part(pack_keys([key(address)]), [q], pack_figures(words[0], words))
        self.sequence += 1
        exchanges = more.get("exchanges", False)
        (data,) = encode(sender, self.sequence, key(name), exchanges, [part], None)
        return data


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    one = Elsewhere()
    yield one
    one.sock.close()


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(ld.unique_name(), Layout(1, 8, 4, peers=1))
    made.add_backend("b", "h:1", 1.0)
    yield made
    made.remove()


@pytest.fixture
async def talk(region: Region, elsewhere: Elsewhere) -> AsyncIterator[Talk]:
    """Bound, its clock in the test's hand; it knows one other."""
    (port,) = free_ports(1)
    members = [f"127.0.0.1:{elsewhere.at[1]}"]
    config = PeersConfig.model_validate(
        {"listen": f"127.0.0.1:{port}", "members": members, "forget_ms": FORGET_MS}
    )
    made = Talk(Settings(config, None), lambda: [(region, "web")])
    made._know([elsewhere.at])
    made.turn(monotonic_ns())
    yield made
    await made.close()


async def test_every_refusal_has_a_reason(talk: Talk, elsewhere: Elsewhere) -> None:
    now_ns = monotonic_ns()
    at = elsewhere.at
    own, _ = elsewhere.sock.recvfrom(2000)
    good = elsewhere.tell("h:1", 3)
    assert talk.hear(good, ("127.0.0.1", 1), now_ns) is Refusal.STRANGER
    assert talk.hear(good[:-1], at, now_ns) is Refusal.MALFORMED
    assert talk.hear(own, at, now_ns) is Refusal.OWN
    assert talk.hear(elsewhere.tell("h:1", 3, name="mail"), at, now_ns) is Refusal.UNKNOWN
    assert talk.hear(elsewhere.tell("h:1", 3, exchanges=True), at, now_ns) is Refusal.UNKNOWN
    assert talk.hear(good, at, now_ns) is None
    assert talk.hear(good, at, now_ns) is Refusal.OLD
    talk.settings = Settings(talk.settings.config, b"sixteen bytes or more")
    assert talk.hear(elsewhere.tell("h:1", 3), at, now_ns) is Refusal.UNPROVEN


async def test_what_is_heard_counts_for_dispatch_and_for_the_agent(
    talk: Talk, elsewhere: Elsewhere, region: Region
) -> None:
    rows, reader = PeerRows(region), Reader(region)
    now_ns = monotonic_ns()

    def say(q: int, **more: Any) -> None:
        elsewhere.sock.sendto(elsewhere.tell("h:1", q, **more), talk._sock.getsockname())
        talk.turn(now_ns)

    def answers() -> int:
        """Once they are published, some turns later."""
        for _ in range(FIGURES_MS // talk.settings.config.every_ms):
            talk.turn(now_ns)
        return int(reader.snapshot(now_ns, peers=True).totals["first_byte_total"][0])

    say(3, answers=1000)
    assert rows.heard(now_ns)
    assert (rows.q[0], answers()) == (3.0, 0)
    say(4, answers=1007)
    assert reader.snapshot(now_ns, peers=True).flows[0] == rows.q[0] == 4
    assert answers() == 7
    # Another life of it, whose counters have begun anew.
    say(1, answers=5, sender=6)
    assert (rows.q[0], answers()) == (1.0, 7)
    say(2, answers=6, sender=6)
    assert answers() == 8
    later_ns = now_ns + (FORGET_MS + 1) * MS
    talk.turn(later_ns)
    assert not rows.heard(later_ns)
    assert not rows.q.any()
    seen = reader.snapshot(later_ns, peers=True)
    assert (seen.flows[0], seen.totals["first_byte_total"][0]) == (0, 8)
    assert [peer.up for peer in talk.peers] == [False]


async def test_a_slot_that_changes_hands_takes_nothing_along(
    talk: Talk, elsewhere: Elsewhere, region: Region
) -> None:
    now_ns = monotonic_ns()
    talk.hear(elsewhere.tell("h:1", 3), elsewhere.at, now_ns)
    talk.turn(now_ns)
    assert PeerRows(region).q[0] == 3
    region.remove_backend(0)
    region.add_backend("c", "h:2", 1.0)
    assert not PeerRows(region).q.any()
    elsewhere.sock.sendto(elsewhere.tell("h:1", 4), talk._sock.getsockname())
    talk.turn(now_ns)
    assert not PeerRows(region).q.any()


async def test_a_balancer_that_listens_everywhere_finds_itself_among_the_members(
    region: Region, elsewhere: Elsewhere
) -> None:
    (port,) = free_ports(1)
    members = [f"localhost:{elsewhere.at[1]}", f"127.0.0.1:{port}"]
    config = PeersConfig.model_validate({"listen": f"0.0.0.0:{port}", "members": members})
    made = Talk(Settings(config, None), lambda: [(region, "web")])
    made.start()
    try:
        await settle(lambda: made.peers and made.peers[0].sent_total, "it told")
        assert [peer.name for peer in made.peers] == [f"127.0.0.1:{elsewhere.at[1]}"]
    finally:
        await made.close()
    assert elsewhere.sock.recvfrom(2000)


async def test_a_name_without_an_answer_keeps_the_addresses_it_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[list[str]] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if not answers:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(0, 0, 0, "", (address, port)) for address in answers.pop()]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        names = [Address.parse("lbd-peers:7946"), Address.parse("127.0.0.9:7946")]
        members = Members(sock, names)
        fixed = ("127.0.0.9", 7946)
        assert (members.change, members.found()) == (True, [fixed])
        for _ in range(2):
            await members.look_up()
        assert members.found() == [fixed]
        assert caplog.text.count("no address for lbd-peers:7946") == 1
        answers = [["127.0.0.4"], ["127.0.0.2", "127.0.0.3"]]
        await members.look_up()
        several = [("127.0.0.2", 7946), ("127.0.0.3", 7946), fixed]
        assert members.found() == several
        await members.look_up()
        assert members.found() == [("127.0.0.4", 7946), fixed]
        await members.look_up()
        assert members.found() == [("127.0.0.4", 7946), fixed]


def test_a_key_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    config = PeersConfig.model_validate(
        {
            "listen": "127.0.0.1:1",
            "members": ["127.0.0.1:2"],
            "key_file": str(tmp_path / "key"),
        }
    )
    with pytest.raises(SecretError, match="No such file"):
        Settings.of(config)
    (tmp_path / "key").write_bytes(b"fifteen bytes..\n")
    with pytest.raises(SecretError, match="15 bytes, of at least 16"):
        Settings.of(config)
    (tmp_path / "key").write_bytes(b"sixteen bytes...\n")
    assert Settings.of(config).secret == b"sixteen bytes..."
