"""Backends come and go under a service: its policies go on with those that stay."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from lbd_daemon import unique_name

from config.address import Address
from config.schema import Backend
from config.schema import Service as ServiceConfig
from lbd.flow import Outcome
from lbd.poller import Poller
from lbd.service import Service
from shm.layout import Layout
from shm.region import Region
from shm.states import Flag, StateWriter

MS = 10**6
PEER = ("127.0.0.1", 4000)


class Bed:
    """A region, a service on it, and a supervisor's hand on the backends."""

    def __init__(self, policy: str, loop: asyncio.AbstractEventLoop) -> None:
        self.now_ns = 10**9
        self.region = Region.create(unique_name(), Layout(1, 8, 4))
        self._states = StateWriter(self.region)
        for name in ("a", "b", "c"):
            self._add(name)
        self.config = ServiceConfig(
            name="web",
            listen=Address.parse("127.0.0.1:8080"),
            backends=(Backend(name="a", address=Address.parse("127.0.0.1:1")),),
            policy=policy,
        )
        self.service = Service(self.config, self.region, 0, Poller(loop))

    def _add(self, name: str) -> int:
        slot = self.region.add_backend(name, f"127.0.0.1:{ord(name)}", 1.0).slot
        self._states.refresh()
        return slot

    def add(self, name: str) -> int:
        slot = self._add(name)
        self.service.configure(self.config)
        return slot

    def remove(self, slot: int) -> None:
        self.region.remove_backend(slot)
        self._states.refresh()
        self.service.configure(self.config)

    def exchange(self, name: str) -> None:
        """Another one in place of all; the service is not told."""
        for entry in self.region.entries():
            self._states.set(entry.slot, Flag.LEAVING, self.now_ns)
        self._add(name)

    def know(self, duration_ms: dict[int, int]) -> None:
        """The policy has a sample of every backend."""
        for slot, took_ms in duration_ms.items():
            self.service.policy.sampled(slot, self.now_ns, took_ms * MS)

    def flow(self, duration_ms: dict[int, int]) -> int:
        """One flow, which takes as long as its backend does; returns the slot."""
        flow = self.service.dispatch(PEER, self.now_ns)
        assert flow is not None
        flow.connected(self.now_ns)
        self.now_ns += duration_ms[flow.slot] * MS
        flow.answered(self.now_ns)
        flow.end(Outcome.COMPLETED, self.now_ns)
        return flow.slot

    def flows(self, count: int, duration_ms: dict[int, int]) -> Counter[int]:
        return Counter(self.flow(duration_ms) for _ in range(count))


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    random.seed(20)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def bed(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Bed]:
    made = Bed(request.param, loop)
    yield made
    made.region.remove()


@pytest.mark.parametrize("bed", ["ewma", "least_time", "hcl"], indirect=True)
def test_averages_of_those_that_stay_go_on(bed: Bed) -> None:
    """0 is slow, and known to be; whatever else changes, it is not tried anew."""
    bed.know({0: 1000, 1: 10, 2: 10})
    took_ms = dict.fromkeys(range(5), 10)
    assert bed.add("d") == 3
    seen = bed.flows(30, took_ms)
    bed.remove(1)
    seen += bed.flows(30, took_ms)
    # The slot is used again, and the table of slots in use grows beyond what it was.
    assert bed.add("e") == 1
    assert bed.add("f") == 4
    seen += bed.flows(30, took_ms)
    assert seen.total() == 90
    assert 0 not in seen


@pytest.mark.parametrize("bed", ["ewma", "least_time", "hcl"], indirect=True)
def test_a_slot_that_is_used_again_is_tried_again(bed: Bed) -> None:
    bed.know({0: 1000, 1: 10, 2: 10})
    bed.remove(0)
    assert bed.add("d") == 0
    assert bed.flows(60, {0: 10, 1: 10, 2: 10})[0] >= 10


@pytest.mark.parametrize("bed", ["ewma"], indirect=True)
def test_another_rule_knows_nothing_of_the_last_ones_averages(bed: Bed) -> None:
    bed.know({0: 1000, 1: 10, 2: 10})
    bed.service.configure(bed.config.model_copy(update={"policy": "least_time"}))
    assert bed.flows(30, {0: 10, 1: 10, 2: 10})[0] >= 5


@pytest.mark.parametrize("bed", ["rr"], indirect=True)
def test_turns_go_on(bed: Bed) -> None:
    took_ms = dict.fromkeys(range(4), 10)
    last = bed.flow(took_ms)
    bed.add("d")
    assert bed.flow(took_ms) == last + 1


@pytest.mark.parametrize("bed", ["rr", "ewma", "maglev"], indirect=True)
def test_while_all_are_exchanged_those_that_leave_go_on(bed: Bed) -> None:
    """The states may be seen before the configuration that tells who the new ones are."""
    took_ms = dict.fromkeys(range(4), 10)
    bed.exchange("d")
    bed.service.refresh(bed.now_ns)
    assert set(bed.flows(30, took_ms)) <= {0, 1, 2}
    bed.service.configure(bed.config)
    assert set(bed.flows(30, took_ms)) == {3}
