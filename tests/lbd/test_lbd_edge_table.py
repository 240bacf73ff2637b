"""What workers remember of sources together: bounded, exact to a connection a worker, expiring."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.edges import Limits, PerSource, SlowClient
from config.edges import Stick as StickConfig
from config.network import Network
from lbd.dispatch import NONE
from lbd.edge import table
from lbd.edge.networks import Networks, network_of
from lbd.edge.slow import slow
from lbd.edge.sources import UNTRACKED, Sources, Verdict
from lbd.edge.stick import Stick
from lbd.edge.table import SharedTable
from lbd.flow import Flow
from lbd.wire.endpoint import Endpoint

SECOND = 1_000_000_000
Tables = Callable[[int, int], list[SharedTable]]


@pytest.fixture
def tables() -> Iterator[Tables]:
    """The views of so many workers on one table of so many entries."""
    fds: list[int] = []

    def make(workers: int, entries: int) -> list[SharedTable]:
        fds.append(table.create(entries, workers, "test"))
        return [SharedTable(fds[-1], entries, workers, own) for own in range(workers)]

    yield make
    for fd in fds:
        os.close(fd)


def client(number: int) -> Endpoint:
    return Endpoint(socket.AF_INET, f"10.0.{number >> 8}.{number & 255}", 1)


# -- the table


def test_an_entry_of_one_worker_is_seen_by_all(tables: Tables) -> None:
    first, second = tables(2, 64)
    key = first.key(b"source")
    assert key == second.key(b"source") != first.key(b"other")
    at, lost_ns = first.claim(key, 5)
    first.words[at + table.VALUE] = 7
    assert lost_ns == 0
    assert [entry[: table.VALUE + 1] for entry in second.all(key)] == [(key, 5, 7)]
    assert second.mine(key) == table.NONE


def test_a_full_bucket_gives_up_the_longest_unused(tables: Tables) -> None:
    (one,) = tables(1, table.WAYS)
    for key in range(1, table.WAYS + 1):
        one.claim(key, key)
    one.claim(1, 100)
    _, lost_ns = one.claim(999, 101)
    assert lost_ns == 2
    assert one.mine(2) == table.NONE
    assert one.mine(1) != table.NONE
    at, lost_ns = one.claim(1000, 102, held=lambda at: True)
    assert (at, lost_ns) == (table.NONE, 0)


def test_a_successor_wipes_its_block_alone(tables: Tables) -> None:
    fd = table.create(64, 2, "test")
    try:
        first, second = (SharedTable(fd, 64, 2, own) for own in range(2))
        key = first.key(b"x")
        first.claim(key, 1)
        second.claim(key, 2)
        SharedTable(fd, 64, 2, 0)
        assert [entry[table.USED_NS] for entry in second.all(key)] == [2]
    finally:
        os.close(fd)


# -- limits a source


def sources(tables: list[SharedTable], **settings: object) -> list[Sources]:
    config = PerSource.model_validate(settings)
    return [Sources(config, one) for one in tables]


def test_connections_are_counted_over_all_workers(tables: Tables) -> None:
    workers = sources(tables(3, 64), connections=4)
    places = [workers[n % 3].admit(client(1), SECOND) for n in range(4)]
    assert all(isinstance(place, int) for place in places)
    assert [worker.admit(client(1), SECOND) for worker in workers] == [Verdict.CONNECTIONS] * 3
    assert isinstance(workers[0].admit(client(2), SECOND), int)
    assert isinstance(places[1], int)
    workers[1].leave(places[1])
    assert isinstance(workers[2].admit(client(1), SECOND), int)
    assert workers[0].admit(client(1), SECOND) is Verdict.CONNECTIONS


def test_a_network_is_one_source(tables: Tables) -> None:
    (worker,) = sources(tables(1, 64), connections=1, ipv4_prefix=24, ipv6_prefix=48)
    assert isinstance(worker.admit(client(1), SECOND), int)
    assert worker.admit(client(2), SECOND) is Verdict.CONNECTIONS
    assert isinstance(worker.admit(client(256), SECOND), int)
    six = [Endpoint(socket.AF_INET6, f"2001:db8:{n}::{n}", 1) for n in (1, 2)]
    assert isinstance(worker.admit(six[0], SECOND), int)
    assert isinstance(worker.admit(six[1], SECOND), int)
    assert worker.admit(six[0], SECOND) is Verdict.CONNECTIONS
    mapped = Endpoint(socket.AF_INET6, "::ffff:10.0.0.9", 1)
    assert worker.admit(mapped, SECOND) is Verdict.CONNECTIONS
    assert worker.admit(Endpoint(socket.AF_UNIX, "", 0), SECOND) == UNTRACKED


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, SECOND)), max_size=120),
)
def test_no_window_of_time_lets_in_more_than_twice_the_rate(
    new: int, steps: list[tuple[int, int]]
) -> None:
    """A sliding window by two counts is an estimate. What always holds: no window cut by the clock
    lets in more than the rate; so any window of the length, at most twice that."""
    fd = table.create(64, 3, "test")
    try:
        shared = [SharedTable(fd, 64, 3, own) for own in range(3)]
        workers = sources(shared, new=new)
        now_ns, admitted = 10 * SECOND, []
        for worker, gap_ns in steps:
            now_ns += gap_ns // 8
            if isinstance(workers[worker].admit(client(1), now_ns), int):
                admitted.append(now_ns)
        for start_ns in admitted:
            assert sum(start_ns <= t < start_ns + SECOND for t in admitted) <= 2 * new
        for window in {t // SECOND for t in admitted}:
            assert sum(t // SECOND == window for t in admitted) <= new
        for one in shared:
            one.words.release()
    finally:
        os.close(fd)


def test_a_steady_source_gets_its_rate_and_no_more(tables: Tables) -> None:
    (worker,) = sources(tables(1, 64), new=10)
    start_ns = 100 * SECOND
    asked = [start_ns + n * SECOND // 100 for n in range(1000)]
    admitted = sum(isinstance(worker.admit(client(1), now_ns), int) for now_ns in asked)
    # Ten windows; the estimate keeps a steady stream a little below its rate, never above.
    assert 80 <= admitted <= 100


def test_sources_beyond_the_table_are_let_in_and_counted(tables: Tables) -> None:
    (worker,) = sources(tables(1, 8), connections=1)
    places = [worker.admit(client(n), SECOND) for n in range(50)]
    assert places.count(UNTRACKED) == worker.untracked_total == 42
    for place in places:
        assert isinstance(place, int)
        worker.leave(place)
    assert isinstance(worker.admit(client(99), SECOND), int)
    assert worker.untracked_total == 42


# -- stickiness


def test_a_source_is_recalled_by_all_workers_until_it_expires(tables: Tables) -> None:
    config = StickConfig(expiry_s=10)
    identities = {1: 11, 2: 12}
    first, second = (Stick(config, one, identities.__getitem__) for one in tables(2, 64))
    key = first.key(client(1))
    assert key is not None
    assert second.recall(key, [1, 2], SECOND) == NONE
    assert not first.remember(key, 2, SECOND)
    assert second.recall(key, [1, 2], 11 * SECOND) == 2
    assert second.recall(key, [1], 11 * SECOND) == NONE
    assert second.recall(key, [1, 2], 11 * SECOND + 1) == NONE
    second.remember(key, 1, 12 * SECOND)
    assert first.recall(key, [1, 2], 12 * SECOND) == 1, "the newest word counts"


def test_the_end_of_an_old_flow_takes_nobody_back(tables: Tables) -> None:
    """A long flow may outlast its backend's drain, while its source goes on elsewhere."""
    identities = {1: 11, 2: 12}
    first, second = (Stick(StickConfig(), t, identities.__getitem__) for t in tables(2, 64))
    key = first.key(client(1))
    assert key is not None
    first.remember(key, 1, SECOND)
    first.prolong(key, 1, 2 * SECOND)
    second.remember(key, 2, 3 * SECOND)
    first.prolong(key, 1, 4 * SECOND)
    assert first.recall(key, [1, 2], 5 * SECOND) == 2
    first.prolong(key, 2, 6 * SECOND)
    identities[2] = 13
    assert second.recall(key, [1, 2], 7 * SECOND) == NONE


def test_who_gets_the_slot_later_is_somebody_else(tables: Tables) -> None:
    identities = {1: 11}
    (one,) = tables(1, 64)
    stick = Stick(StickConfig(), one, identities.__getitem__)
    key = stick.key(client(1))
    assert key is not None
    stick.remember(key, 1, SECOND)
    identities[1] = 12
    assert stick.recall(key, [1], SECOND) == NONE


def test_only_a_source_that_had_time_left_is_lost(tables: Tables) -> None:
    (one,) = tables(1, 8)
    stick = Stick(StickConfig(expiry_s=10), one, lambda slot: 1)
    lost = [stick.remember(n, 1, n * SECOND) for n in range(1, 30)]
    assert sum(lost) == 29 - 8
    assert not stick.remember(30, 1, 100 * SECOND)


# -- networks


NETWORKS = Networks(map(Network.parse, ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix")))


@pytest.mark.parametrize(
    ("family", "host", "inside"),
    [
        (socket.AF_INET, "10.255.0.1", True),
        (socket.AF_INET, "11.0.0.0", False),
        (socket.AF_INET, "192.0.2.1", True),
        (socket.AF_INET, "192.0.2.2", False),
        (socket.AF_INET6, "2001:db8:ffff::1", True),
        (socket.AF_INET6, "2001:db9::1", False),
        (socket.AF_INET6, "::ffff:10.0.0.1", False),
        (socket.AF_UNIX, "", True),
    ],
)
def test_trust_goes_by_the_addresss_own_family(family: int, host: str, inside: bool) -> None:
    assert (Endpoint(family, host, 1) in NETWORKS) is inside


@given(st.ip_addresses(v=4), st.integers(1, 32))
def test_a_network_has_one_name_for_all_its_addresses(address: object, prefix: int) -> None:
    end = Endpoint(socket.AF_INET, str(address), 1)
    number = int(socket.inet_aton(end.host).hex(), 16)
    other = number ^ ((1 << (32 - prefix)) - 1)
    twin = Endpoint(socket.AF_INET, socket.inet_ntoa(other.to_bytes(4, "big")), 2)
    assert network_of(end, prefix, 64) == network_of(twin, prefix, 64)
    outside = Endpoint(
        socket.AF_INET, socket.inet_ntoa((number ^ 1 << 32 - prefix).to_bytes(4, "big")), 3
    )
    assert network_of(end, prefix, 64) != network_of(outside, prefix, 64)


# -- slow clients


class Nobody:
    """A ledger that keeps nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def flow(received_before: int, answered: bool = False) -> Flow:
    one = Flow(Nobody(), 0, 1)
    one.connected(1)
    one.bytes_in = received_before
    if answered:
        one.answered(2)
    return one


def test_slow_is_who_still_sends_and_sends_too_little() -> None:
    judge = slow(Limits(slow_client=SlowClient(after_s=10, bytes_per_s=10)))
    assert judge is not None
    late_ns = 20 * SECOND
    assert judge.judge(flow(100), 101, late_ns)
    assert not judge.judge(flow(101), 101, late_ns), "it waits for the answer"
    assert not judge.judge(flow(100), 300, late_ns), "fast enough"
    assert not judge.judge(flow(100), 101, 5 * SECOND), "too young"
    assert not judge.judge(flow(100, answered=True), 101, late_ns), "answered"
    assert not judge.judge(flow(0), 0, late_ns), "silence is another limit's"


def test_silent_is_who_never_said_anything_where_nothing_was_said_to_it() -> None:
    judge = slow(Limits(first_byte_s=2))
    assert judge is not None
    assert judge.judge(flow(0), 0, 3 * SECOND)
    assert not judge.judge(flow(0), 0, 2 * SECOND)
    assert not judge.judge(flow(0), 1, 3 * SECOND)
    assert not judge.judge(flow(0, answered=True), 0, 3 * SECOND)
    assert slow(Limits()) is None
