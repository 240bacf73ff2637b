"""A live policy and its compiled mirror, side by side on the same load and the same random numbers.

Both see the very same vectors of flows and weights; times are whole multiples of 1/512 s, which are
whole nanoseconds as well, so that neither side rounds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from lbd.dispatch import Load, Memory, Policy, create
from lbd.dispatch.hcl import HotCold
from lbd.dispatch.latency import LatencyAverages
from lbd.dispatch.maglev import Maglev
from testbed.sim.compiled import dispatch
from testbed.sim.policies import rule
from testbed.sim.records import START_NS, State, allocate
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.sim.workload import STAGES, Workload

TICKS_PER_S = 512
MASK = (1 << 64) - 1
BALANCER = np.int32(0)
"""Of the type that the event loop has, so that nothing is compiled a second time."""


class SplitMix:
    """The simulator's generator, from the paper and not from the simulator."""

    def __init__(self, seed: int) -> None:
        self.state = seed & MASK

    def random(self) -> float:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        return (z >> 11) * 2.0**-53

    def getrandbits(self, bits: int) -> int:
        return int(self.random() * (1 << bits))

    def randrange(self, stop: int) -> int:
        return int(self.random() * stop)

    def sample(self, population: list[int], count: int) -> list[int]:
        """Fisher's and Yates's shuffle, stopped after `count`."""
        pool = list(population)
        for at in range(count):
            other = at + self.randrange(len(pool) - at)
            pool[at], pool[other] = pool[other], pool[at]
        return pool[:count]

    @contextmanager
    def feeds_live_policies(self) -> Iterator[None]:
        """All that `lbd.dispatch` draws comes from here."""
        with (
            patch("lbd.dispatch.policy.getrandbits", self.getrandbits),
            patch("lbd.dispatch.rr.randrange", self.randrange),
            patch("lbd.dispatch.hcl.sample", self.sample),
            patch("lbd.dispatch.hcl.random", self.random),
            patch("lbd.dispatch.ecmp.random", self.random),
            patch("lbd.dispatch.wcmp.random", self.random),
            patch("lbd.dispatch.wrr.random", self.random),
            patch("lbd.dispatch.p2c.random", self.random),
        ):
            yield


def empty_state(slots: int) -> State:
    """A state of one balancer before one flow."""
    size = Size(mean_s=1.0)
    scenario = Scenario(
        name="pair",
        balancers=1,
        servers=(Servers(count=slots),),
        applications=(Application(stages=((Resource.CPU, size),)),),
        arrivals=Arrivals(rate_per_s=1.0),
    )
    one = np.ones(1)
    none = np.zeros(1, np.int64)
    workload = Workload(one, none, none, np.ones((1, STAGES)), one, one, one)
    state = allocate(scenario, workload, seed=0, reservoir=1)
    # So that more can be barred than the simulator's flows ever are.
    return state._replace(tried=np.zeros((1, slots), np.int32))


class Pair:
    """The two sides. Every call does the same to both, and `check` compares all they remember."""

    def __init__(self, name: str, slots: int, seed: int, memory: Memory | None = None) -> None:
        self.name = name
        self.memory = memory or Memory()
        self.present = list(range(slots))
        self.state = state = empty_state(slots)
        self.stream = SplitMix(seed)
        self.tick = 0
        self.started_ns = np.zeros(slots, np.int64)
        self.waiting = np.zeros(slots, np.int64)
        self.load = Load([state.q[0]], [self.waiting], [self.started_ns], [], state.weight[0])
        self.policy: Policy
        plain = rule(name)
        balancer = state.balancers[0]
        balancer["policy"] = plain.code
        balancer["memory_flows"] = plain.memory_flows
        balancer["memory_s"] = plain.memory_s
        if memory is not None:
            balancer["memory_flows"] = memory.flows or 0.0
            balancer["memory_s"] = memory.seconds or 1.0
        with self.stream.feeds_live_policies():
            self.policy = create(name, self.load, self.memory)
        if name == "rr":
            balancer["turn"] = self.policy._next
        elif name == "wrr":
            state.views["credit"][0] = self.policy._credit
        state.world[0]["random"] = self.stream.state
        dispatch.refresh(state, 0)

    @property
    def now_s(self) -> float:
        return self.tick / TICKS_PER_S

    @property
    def now_ns(self) -> int:
        return START_NS + self.tick * (10**9 // TICKS_PER_S)

    def pass_time(self, ticks: int) -> None:
        self.tick += ticks
        self.state.world[0]["now_s"] = self.now_s

    def set_usable(self, usable: list[int]) -> None:
        self.load.usable = usable
        self.state.usable[: len(usable)] = usable
        self.state.world[0]["usable"] = len(usable)
        self._refresh()

    def change_backends(self, present: list[int], gone: set[int]) -> None:
        """`present` are there now, all of them usable; slots in `gone`, and those that were not
        there before, are other backends'."""
        stay = [slot for slot in present if slot in self.present and slot not in gone]
        former, old = self.policy, self.load
        self.load = Load(old.flows, old.waiting, old.waiting_start_ns, present, old.weight)
        with SplitMix(1).feeds_live_policies():
            self.policy = create(self.name, self.load, self.memory)
        self.policy.inherit(former, stay)
        for slot in range(self.load.slots):
            if slot not in stay:
                dispatch.forget(self.state, 0, slot)
        self.present = present
        self.set_usable(present)

    def set_weight(self, weight: list[float]) -> None:
        self.load.weight[:] = weight
        self._refresh()

    def _refresh(self) -> None:
        self.policy.refresh()
        dispatch.refresh(self.state, 0)
        if isinstance(self.policy, Maglev):
            table = np.array(self.policy._table, np.int64)
            self.state = self.state._replace(table=table)

    def start(self, slot: int, flows: int = 1) -> None:
        self.state.q[0, slot] += flows
        self.state.seen[0, slot] += flows
        self.waiting[slot] += flows
        self.started_ns[slot] += flows * self.now_ns
        self.state.views[0, slot]["start_s"] += flows * self.now_s

    def end(self, slot: int, age_ticks: int) -> None:
        """One of the flows on `slot`, if there is any, was that old."""
        if self.waiting[slot]:
            age_ticks = min(age_ticks, self.tick)
            self.state.q[0, slot] -= 1
            self.state.seen[0, slot] -= 1
            self.waiting[slot] -= 1
            self.started_ns[slot] -= self.now_ns - age_ticks * (10**9 // TICKS_PER_S)
            self.state.views[0, slot]["start_s"] -= (self.tick - age_ticks) / TICKS_PER_S

    def sampled(self, slot: int, duration_ns: int) -> None:
        self.policy.sampled(slot, self.now_ns, duration_ns)
        now_ns, duration = float(self.now_ns), float(duration_ns)
        dispatch.sampled(self.state, BALANCER, np.int32(slot), now_ns, duration)

    def failed(self, slot: int, age_ns: int) -> None:
        self.policy.failed(slot, self.now_ns, age_ns)
        dispatch.failed(self.state, BALANCER, np.int32(slot), float(age_ns))

    def choose(self, key: int) -> tuple[int, int]:
        """(live, compiled) choice."""
        self.state.flows[0]["client"] = key
        with self.stream.feeds_live_policies():
            live = self.policy.choose(self.now_ns, key)
        return live, dispatch.choose(self.state, BALANCER, 0)

    def choose_but(self, key: int, barred: list[int]) -> tuple[int, int]:
        """(live, compiled) choice of one that is not `barred`."""
        self.state.flows[0]["client"] = key
        self.state.tried[0, : len(barred)] = barred
        with self.stream.feeds_live_policies():
            live = self.policy.choose_but(self.now_ns, key, barred)
        return live, dispatch.choose_but(self.state, BALANCER, 0, len(barred))

    def check(self) -> None:
        """What both sides remember is the same, bit for bit, draws of random numbers included."""
        state, views = self.state, self.state.views[0]
        assert int(state.world[0]["random"]) == self.stream.state
        latency = getattr(self.policy, "_latency", None)
        if isinstance(latency, LatencyAverages):
            np.testing.assert_array_equal(state.mean_ns[0], latency.mean_ns)
            np.testing.assert_array_equal(views["count"], latency._count)
            np.testing.assert_array_equal(views["charge"], latency._charge)
            np.testing.assert_array_equal(views["failed_ns"], latency._failed_ns)
            np.testing.assert_array_equal(views["sampled_at"], latency._sampled_at)
            assert bool(state.balancers[0]["failing"]) == latency.failing
        usable = self.load.usable
        if hasattr(self.policy, "cost") and self.name != "least_time":
            np.testing.assert_array_equal(state.cost[0], self.policy.cost)
        elif self.name == "least_time" and usable and latency is not None:
            np.testing.assert_array_equal(state.cost[0, usable], self.policy.cost[usable])
        if self.name == "wrr":
            np.testing.assert_array_equal(views["credit"], self.policy._credit)
        if isinstance(self.policy, HotCold):
            assert state.balancers[0]["hot_above"] == self.policy._hot_above
