"""One run: the compiled loop, what happens by the clock, and what each balancer may see.

Lives here: servers that change, snapshots as a reader of the shared memory would get them, weights
on their way back. Never here: which rule chooses and who sets weights (`testbed.sim.policies`).
Times are seconds since the start; a snapshot's are nanoseconds of a clock that began a week before.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from lbd.dispatch.maglev import build
from shm.snapshot import Samples, Snapshot
from testbed.sim import records as rec
from testbed.sim.compiled import dispatch, kernel
from testbed.sim.compiled.dispatch import BY_TABLE, JIQ, SED, clock_ns
from testbed.sim.scenario import Event, Scenario
from testbed.sim.workload import Workload, draw_workload

Floats = NDArray[np.float64]

RESERVOIR = 128
"""Samples a backend, the default of the live region."""


class World:
    """A scenario under a seed. Call `use` once, then `advance`.

    The seed decides the flows; draws of the rules come from another stream of it.
    """

    def __init__(self, scenario: Scenario, seed: int, workload: Workload | None = None) -> None:
        self.scenario = scenario
        self.workload = draw_workload(scenario, seed) if workload is None else workload
        self.state = rec.allocate(scenario, self.workload, seed, RESERVOIR)
        self.count = len(scenario.backends)
        self.now_s = 0.0
        self.present = np.array([not server.spare for server in scenario.backends])
        self.believed_up = np.ones(self.count, dtype=bool)
        self.identity = np.where(self.present, np.arange(1, self.count + 1), 0).astype(np.uint64)
        self._next_identity = self.count + 1
        self.led = np.zeros(scenario.balancers, dtype=bool)
        """(balancers,): whose weights come from outside and not from the configuration."""
        self._speeds = np.array([(s.speed, s.io_speed) for s in scenario.backends])
        self._factor = np.ones(self.count)
        # (time, order, event): what a balancer notices comes after what happens.
        self._events: list[tuple[float, int, str, Event]] = []
        for number, event in enumerate(scenario.events):
            self._events.append((event.at_s, 2 * number, event.kind, event))
            if event.kind in ("fail", "recover"):
                noticed_s = event.at_s + scenario.detect_s
                self._events.append((noticed_s, 2 * number + 1, f"notice {event.kind}", event))
        heapq.heapify(self._events)

    # -- what the rules need

    def use(self, policy: int, memory_flows: float = 200.0, memory_s: float = 1.0) -> None:
        """Set every balancer's rule, a constant of `testbed.sim.compiled.dispatch`.

        memory_flows, memory_s: of latency averages; memory_flows 0 means by seconds.
        """
        balancers = self.state.balancers
        balancers["policy"] = policy
        balancers["memory_flows"], balancers["memory_s"] = memory_flows, memory_s
        rng = np.random.default_rng(int(self.state.world[0]["random"]))
        balancers["turn"] = rng.integers(max(int(self.present.sum()), 1), size=len(balancers))
        self.state.views["credit"] = 1e-6 * rng.random(self.state.views.shape)
        self._set_usable()
        if policy == JIQ:
            for slot in np.flatnonzero(self.present):
                dispatch.idle(self.state, int(slot))

    def lead(self, balancer: int) -> None:
        """Take one balancer off the rule: shortest expected delay by weights from outside, 1 at
        first."""
        self.led[balancer] = True
        self.state.balancers["policy"][balancer] = SED
        self.state.weight[balancer] = 1.0
        dispatch.refresh(self.state, balancer)

    def set_weights(
        self,
        balancer: int,
        identity: NDArray[np.uint64],
        weights: Floats,
        offset: float = 1.0,
    ) -> None:
        """One balancer's new weights (n,) for the backends `identity` (n,); what it adds to q."""
        slots = self.slots_of(identity)
        known = slots >= 0
        self.state.weight[balancer, slots[known]] = weights[known]
        self.state.offset[balancer] = offset
        dispatch.refresh(self.state, balancer)

    def slots_of(self, identity: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Slots (n,) of identities (n,); -1 for one that is gone."""
        at = np.searchsorted(self.identity, identity, sorter=(order := self.identity.argsort()))
        slots = order[np.minimum(at, self.count - 1)]
        return np.where(self.identity[slots] == identity, slots, -1)

    def set_all_weights(self, weights: Floats) -> None:
        """The same weights (servers,) for every balancer."""
        self.state.weight[:] = weights
        for balancer in range(self.scenario.balancers):
            dispatch.refresh(self.state, balancer)

    def capacity_per_s(self) -> Floats:
        """(servers,) true flows a second of each server at its speed of this moment."""
        return self.scenario.capacity_per_s() * self._factor

    def jobs(self) -> Floats:
        """(servers,) jobs at each server now, which only a probe of the server could tell."""
        cpu, io = np.split(self.state.stations, 2)
        return (cpu["serving"] + cpu["waiting"] + io["serving"]).astype(np.float64)

    def answering(self) -> NDArray[np.bool_]:
        """(servers,) which servers are up, balancers having noticed or not."""
        return self.state.servers["up"] == 1

    # -- time

    def advance(self, until_s: float) -> None:
        """Simulate up to `until_s`; infinity: until the last flow has ended."""
        while self._events and self._events[0][0] <= until_s:
            at_s, _, what, event = heapq.heappop(self._events)
            self._run(at_s)
            self._happen(what, event)
        self._run(until_s)

    def _run(self, until_s: float) -> None:
        while not kernel.advance(self.state, until_s):
            self._grow()
        self.now_s = float(self.state.world[0]["now_s"])

    def _grow(self) -> None:
        self.state = rec.grown(self.state)
        self.state.world["crowded"] = 0

    def _happen(self, what: str, event: Event) -> None:
        slot = event.server
        if what == "speed":
            self._factor[slot] = event.factor
            cpu, io = self._speeds[slot] * event.factor
            kernel.set_speed(self.state, slot, cpu, io)
            self.state.servers[slot]["capacity"] = self.capacity_per_s()[slot]
        elif what == "fail":
            while (
                len(self.state.deferred) - self.state.world[0]["deferred"] < self.jobs()[slot] + 2
            ):
                self._grow()
            kernel.fail(self.state, slot)
        elif what == "recover":
            self.state.servers[slot]["up"] = 1
        elif what == "notice fail":
            self.believed_up[slot] = False
        elif what == "notice recover":
            self.believed_up[slot] = True
        elif what == "add" and not self.present[slot]:
            self._renew(slot)
            self.present[slot] = True
            self.identity[slot] = self._next_identity
            self._next_identity += 1
        elif what == "remove":
            self.present[slot] = False
            self.identity[slot] = 0
        if what in ("add", "remove"):
            self._forget_the_gone(slot)
        if what not in ("fail", "recover", "speed"):
            self._set_usable()
        if what in ("recover", "notice recover", "add"):
            self._say_idle(slot)

    def _forget_the_gone(self, changed: int) -> None:
        """Live, a backend that was removed earlier and has no flows is not among those that stay;
        the one that is being removed still waits for its last flows."""
        for slot in np.flatnonzero(~self.present):
            for balancer in np.flatnonzero(self.state.q[:, slot] == 0.0):
                if slot != changed:
                    dispatch.forget(self.state, int(balancer), int(slot))

    def _say_idle(self, slot: int) -> None:
        """A server that comes has nothing to do, and says so where balancers look for idle ones."""
        state = self.state
        usable = self.present[slot] and self.believed_up[slot] and state.servers[slot]["up"]
        if state.balancers[0]["policy"] == JIQ and usable and not self.jobs()[slot]:
            dispatch.idle(state, slot)

    def _renew(self, slot: int) -> None:
        """The slot, not yet present, is a backend that no balancer knows anything of.

        Its weight is the configured one where that counts. Who sets weights knows none for it yet:
        until then it has the median of those present.
        """
        state = self.state
        state.duration_t_ns[:, slot] = 0
        if self.led.any() and self.present.any():
            known = state.weight[np.ix_(self.led, self.present)]
            state.weight[self.led, slot] = np.median(known, axis=1)
        state.offset[:, slot] = 1.0
        views = state.views[:, slot]
        views["accepted"] = views["failed"] = views["answered"] = views["duration_ns"] = 0
        state.told[:, slot] = state.last[:, slot] = np.zeros((), rec.TOLD)
        state.seen[:, slot] = state.q[:, slot]
        for balancer in range(self.scenario.balancers):
            dispatch.forget(state, balancer, slot)

    def _set_usable(self) -> None:
        slots = np.flatnonzero(self.present & self.believed_up)
        self.state.usable[: len(slots)] = slots
        self.state.world["usable"] = len(slots)
        if self.state.balancers[0]["policy"] in BY_TABLE:
            weights = self.state.weight[0, slots].tolist()
            table = build(slots.tolist(), weights, [str(slot) for slot in slots])
            self.state = self.state._replace(table=np.array(table, np.int64))
        for balancer in range(self.scenario.balancers):
            dispatch.refresh(self.state, balancer)

    # -- what can be seen

    def snapshot(self, balancer: int) -> Snapshot:
        """What a reader of the balancer's region would see now.

        A flow waits until its answer is there and is closed then, so flows and waiting are the
        same, and so are its duration and its completion time.
        """
        state, slots = self.state, np.flatnonzero(self.present)
        own, told = state.views[balancer, slots], state.told[balancer, slots]
        views = {name: own[name] + told[name] for name in (rec.TOLD.names or ())[1:]}
        flows = state.seen[balancer, slots].astype(np.int64)
        age_s = np.maximum(flows * self.now_s - views["start_s"], 0.0)
        duration = Samples(state.duration_t_ns[balancer, slots], state.duration_ns[balancer, slots])
        return Snapshot(
            now_ns=clock_ns(self.now_s),
            generation=1,
            slots=slots,
            identity=self.identity[slots],
            flows=flows,
            waiting=flows.copy(),
            waiting_age_ns=(age_s * 1e9).astype(np.int64),
            totals={
                "flows_total": views["accepted"],
                "backend_reset_total": views["failed"],
                "unanswered_total": views["failed"].copy(),
                "first_byte_total": views["answered"],
                "duration_ns_total": views["duration_ns"],
            },
            duration=duration,
            fct=duration,
            interarrival=Samples(
                state.gap_t_ns[balancer : balancer + 1].copy(),
                state.gap_ns[balancer : balancer + 1].copy(),
            ),
        )
