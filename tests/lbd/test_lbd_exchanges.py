"""Exchanges within flows: turns on real sockets, accounts that close, and what q then means."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import lbd_daemon as ld
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lbd_backends import Backend, read_exactly, reset
from lbd_client import connect
from lbd_rig import ListLedger, Rig, rig
from lbd_waiting import until

from lbd.dispatch import Load, Policy
from lbd.exchanges import SPARE_NS, ExchangeFlow, ExchangeLedger
from lbd.flow import Outcome
from shm.layout import GAUGES, Layout
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
SLOTS = 2
MS = 1_000_000


class Turns(ListLedger):
    """Also every turn."""

    def busied(self, slot: int, busy: bool) -> None:
        self.calls.append(("busy" if busy else "free", slot))

    def exchange_asked(self, slot: int, now_ns: int) -> None:
        self.calls.append(("question", slot))

    def exchange_answered(self, slot: int, now_ns: int, latency_ns: int) -> None:
        self.calls.append(("answer", slot))

    @property
    def turns(self) -> list[str]:
        return [call[0] for call in self.calls if call[0] in ("question", "answer")]


@pytest.fixture
def one() -> Iterator[Rig]:
    with rig(Turns(), ExchangeFlow) as made:
        yield made


def say(one: Rig, near: socket.socket, far: socket.socket, data: bytes) -> None:
    near.sendall(data)
    one.turn()
    assert read_exactly(far, len(data)) == data


# -- turns, on real sockets


def test_every_question_of_a_kept_open_flow_is_an_exchange(one: Rig) -> None:
    _relay, client, server = one.connected()
    for _ in range(3):
        say(one, client, server, b"question")
        say(one, server, client, b"answer")
    assert one.ledger.turns == ["question", "answer"] * 3
    assert one.ledger.names.count("answered") == 1


def test_more_of_a_question_or_an_answer_begins_nothing(one: Rig) -> None:
    _relay, client, server = one.connected()
    for part in (b"GET / HT", b"TP/1.0", b"\r\n\r\n"):
        say(one, client, server, part)
    for part in (b"HTTP/1.0", b" 200", b" OK"):
        say(one, server, client, part)
    assert one.ledger.turns == ["question", "answer"]


def test_what_a_server_says_unasked_answers_nothing(one: Rig) -> None:
    _relay, client, server = one.connected()
    say(one, server, client, b"220 ready")
    say(one, server, client, b"220 still ready")
    assert one.ledger.turns == []
    assert one.ledger.calls[-1] == ("free", 0)
    say(one, client, server, b"HELO")
    say(one, server, client, b"250")
    assert one.ledger.turns == ["question", "answer"]


def test_an_answer_after_the_clients_half_close_is_one(one: Rig) -> None:
    _relay, client, server = one.connected()
    say(one, client, server, b"question")
    client.shutdown(socket.SHUT_WR)
    one.turn()
    say(one, server, client, b"answer")
    server.close()
    one.turn_until(lambda: one.ended)
    assert one.ledger.turns == ["question", "answer"]
    assert one.outcome is Outcome.COMPLETED


# -- accounts


class Told(Policy):
    """Writes down what it is told."""

    name = "told"

    def __init__(self) -> None:
        super().__init__(Load.of([0.0] * SLOTS))
        self.samples: list[tuple[int, int]] = []
        self.failures: list[tuple[int, int]] = []

    def choose(self, now_ns: int, key: int) -> int:
        return 0

    def sampled(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self.samples.append((slot, duration_ns))

    def failed(self, slot: int, now_ns: int, age_ns: int) -> None:
        self.failures.append((slot, age_ns))


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region.create(ld.unique_name(), Layout(2, SLOTS, 64, exchanges=1))
    for slot in range(SLOTS):
        made.add_backend(f"b{slot}", f"127.0.0.1:{slot + 1}", 1.0)
    yield made
    made.remove()


@contextlib.contextmanager
def account(region: Region) -> Iterator[tuple[ExchangeLedger, Told, WorkerBlock]]:
    block = WorkerBlock(region, 0)
    for entry in region.entries():
        block.adopt(entry.slot, entry.identity)
    told = Told()
    yield ExchangeLedger(block, [told]), told, block


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "connect", "speak", "speak", "look", *Outcome]),
        st.integers(0, 99),
    ),
    max_size=80,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_order_of_turns_and_ends_closes_the_accounts(
    region: Region, steps: list[tuple[Any, int]]
) -> None:
    """A flow's turns alternate as the relay's do; q is what a recount of the open flows says."""
    with account(region) as (ledger, told, block):
        now_ns = 10**12
        flows: list[ExchangeFlow] = []
        count: Counter[str] = Counter()
        for what, which in [*steps, *[(Outcome.SHUTDOWN, n) for n in range(80)]]:
            now_ns += 300 * MS
            still_open = [flow for flow in flows if flow.outcome is None]
            if what == "open":
                flows.append(ExchangeFlow(ledger, which % SLOTS, now_ns))
            elif still_open:
                flow = still_open[which % len(still_open)]
                if what == "connect" and not flow.connected_ns:
                    flow.connected(now_ns)
                elif what == "speak" and flow.connected_ns and flow.asked_ns:
                    flow.answered(now_ns)
                    count["answered"] += 1
                elif what == "speak" and flow.connected_ns:
                    flow.asked(now_ns)
                    count["asked"] += 1
                elif what == "look":
                    flow.look(now_ns)
                elif isinstance(what, Outcome):
                    flow.end(what, now_ns)
            still_open = [flow for flow in flows if flow.outcome is None]
            for slot in range(SLOTS):
                here = [flow for flow in still_open if flow.slot == slot]
                assert block.floats["busy"][slot] == sum(flow.busy for flow in here)
                assert block.rows["exchanges"][slot] == sum(flow.asked_ns > 0 for flow in here)
        assert all(not int(block.rows[name][s]) for name in GAUGES[1:] for s in range(SLOTS))
        block.publish(now_ns)
        seen = Reader(region).snapshot(now_ns)
        assert seen.totals["exchanges_total"].sum() == count["asked"]
        assert seen.totals["exchanges_answered_total"].sum() == count["answered"]
        assert len(told.samples) == count["answered"]
        assert seen.totals["exchange_ns_total"].sum() == sum(ns for _, ns in told.samples)


def test_policies_go_by_the_latency_of_exchanges_and_not_of_the_flow(region: Region) -> None:
    with account(region) as (ledger, told, block):
        flow = ExchangeFlow(ledger, 1, 1000)
        flow.connected(2000)
        flow.asked(500 * MS)
        flow.answered(503 * MS)
        flow.asked(900 * MS)
        flow.answered(901 * MS)
        assert told.samples == [(1, 3 * MS), (1, 1 * MS)]
        block.publish(10**9)
        seen = Reader(region).snapshot(10**9)
        assert seen.exchanges is not None
        latency = seen.exchanges.latency
        found = set(latency.value_ns[latency.t_ns > 0].tolist())
        assert found <= {3 * MS, 1 * MS}
        assert found
        assert seen.duration.value_ns[seen.duration.t_ns > 0].tolist() == [503 * MS - 2000]


@pytest.mark.parametrize(
    ("turns", "age_ns"), [([], 9000 * MS), (["ask"], 4000 * MS), (["ask", "answer"], 0)]
)
def test_a_failure_is_charged_by_the_exchange_that_it_cut_off(
    region: Region, turns: list[str], age_ns: int
) -> None:
    with account(region) as (ledger, told, _):
        flow = ExchangeFlow(ledger, 0, 1000 * MS)
        flow.connected(1000 * MS)
        if "ask" in turns:
            flow.asked(6000 * MS)
        if "answer" in turns:
            flow.answered(7000 * MS)
        flow.end(Outcome.BACKEND_RESET, 10_000 * MS)
        assert told.failures == [(0, age_ns)]


def test_ages_of_open_exchanges_add_up_and_a_silent_client_charges_nobody(region: Region) -> None:
    with account(region) as (ledger, _, block):
        for asked_ns in (1000, 3000, 0):
            flow = ExchangeFlow(ledger, 1, 500)
            flow.connected(600)
            if asked_ns:
                flow.asked(asked_ns)
        block.publish(4000)
        found = Reader(region).snapshot(5000).exchanges
        assert found is not None
        assert found.waiting.tolist() == [0, 2]
        assert found.waiting_age_ns.tolist() == [0, 6000]
        assert found.busy.tolist() == [0, 3]
        flow.look(600 + SPARE_NS)
        block.publish(6000)
        found = Reader(region).snapshot(6000).exchanges
        assert found is not None
        assert found.busy.tolist() == [0, 2]


# -- the daemon


def ask_and_wait(sock: socket.socket) -> None:
    """Answers each byte but `s`, which it keeps waiting; `r` it answers by a reset."""
    while data := sock.recv(1):
        if data == b"r":
            reset(sock)
            return
        if data != b"s":
            sock.sendall(data)


def busy(name: str) -> list[int]:
    found = ld.snapshot(name).exchanges
    assert found is not None
    return [int(q) for q in found.busy]


def test_kept_open_connections_weigh_nothing_while_they_rest(daemon: Start, backend: Make) -> None:
    """Ten rest on both backends; one with a question open turns all that comes to the other."""
    backends = [backend(ask_and_wait), backend(ask_and_wait)]
    service = ld.service([b.address for b in backends], policy="lsq", load="exchanges")
    daemon(service, workers=2)
    name = service["name"]
    with contextlib.ExitStack() as stack:

        def keep() -> socket.socket:
            sock = stack.enter_context(connect(service))
            sock.sendall(b"a")
            assert sock.recv(1) == b"a"
            return sock

        kept = [keep() for _ in range(10)]
        until(lambda: busy(name) == [0, 0], "all at rest")
        kept[0].sendall(b"s")
        until(lambda: sum(busy(name)) == 1, "one at work")
        idle = busy(name).index(0)
        before = [b.accepted for b in backends]
        for _ in range(10):
            keep()
        assert [b.accepted - n for b, n in zip(backends, before, strict=True)] == [
            10 if slot == idle else 0 for slot in range(2)
        ]
    until(lambda: ld.totals(name)["flows"] == 0, "no flow left")
    found = ld.totals(name)
    assert found["exchanges_total"] == 21
    assert found["exchanges_answered_total"] == 20
    assert busy(name) == [0, 0]


def test_a_long_flow_yields_a_sample_for_each_of_its_questions(
    daemon: Start, backend: Make
) -> None:
    service = ld.service([backend(ask_and_wait).address], load="exchanges", weights="agent")
    daemon(service)
    with connect(service) as sock:
        for _ in range(50):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        name = service["name"]
        until(lambda: ld.totals(name)["exchanges_answered_total"] == 50, "all counted")
        seen = ld.snapshot(name)
        assert seen.exchanges is not None
        assert int((seen.duration.t_ns > 0).sum()) == 1
        assert int((seen.exchanges.latency.t_ns > 0).sum()) > 10
        assert seen.flows.tolist() == [1]
        assert seen.exchanges.busy.tolist() == [0]


def test_a_reset_in_the_midst_of_an_exchange_is_the_backends_failure(
    daemon: Start, backend: Make
) -> None:
    service = ld.service([backend(ask_and_wait).address], load="exchanges")
    daemon(service)
    name = service["name"]
    with connect(service) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        sock.sendall(b"r")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    until(lambda: ld.totals(name)["backend_reset_total"] == 1, "the failure counted")
    assert busy(name) == [0]


def test_without_it_nothing_of_it_is_kept(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(ask_and_wait).address])
    daemon(service)
    with connect(service) as sock:
        for _ in range(3):
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        until(lambda: ld.totals(service["name"])["first_byte_total"] == 1, "the answer counted")
        seen = ld.snapshot(service["name"])
        assert seen.exchanges is None
        assert seen.totals["exchanges_total"].tolist() == [0]


def test_a_flow_that_moves_to_another_backend_leaves_nothing_behind(
    daemon: Start, backend: Make
) -> None:
    """The first attempts are refused; what the client asked is asked of the other."""
    addresses = [f"127.0.0.1:{ld.free_port()}", backend(ask_and_wait).address]
    service = ld.service(addresses, load="exchanges", policy="rr")
    daemon(service)
    name = service["name"]
    for _ in range(4):
        with connect(service) as sock:
            for _ in range(2):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
    until(lambda: ld.totals(name)["completed_total"] == 4, "all over")
    seen = ld.snapshot(name)
    assert seen.totals["connect_failed_total"][0] > 0
    assert seen.totals["exchanges_answered_total"].tolist() == [0, 8]
    assert busy(name) == [0, 0]
