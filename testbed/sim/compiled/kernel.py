"""The event loop: flows arrive at balancers, reach servers, pass their stages, and come back.

Lives here: the order of events and a flow's way. Never here: queues (`queues`), rules
(`dispatch`), anything that happens by the clock rather than to a flow (`testbed.sim.world`).
Events at the same time: completions, then ends of links, then arrivals; the lower number first.
"""

from __future__ import annotations

import numpy as np

from lbd.dispatch.policy import NONE
from testbed.sim.compiled import dispatch
from testbed.sim.compiled.dispatch import JIQ, clock_ns
from testbed.sim.compiled.jit import inner, outer
from testbed.sim.compiled.queues import bring_up_to, complete, join, schedule
from testbed.sim.compiled.random import uniform
from testbed.sim.records import FAILED, FINISHED, REFUSED, REJECTED, RETRIES, UNROUTED, State

# What a flow does next. Each step of its way returns one of these.
_AWAY, _ACCEPT, _TO_SERVER, _REACH, _STAGE, _LEAVE, _LAND = range(7)


@outer
def advance(s: State, until_s: float) -> bool:
    """Simulate up to and at `until_s`; False if the state must grow first: then call again."""
    world = s.world[0]
    while True:
        station = s.winner[1]
        due_s = s.due_s[station]
        link_s = s.deferred_s[0] if world.deferred > 0 else np.inf
        arrival_s = s.flows[world.next_flow].at_s if world.next_flow < len(s.flows) else np.inf
        at_s = min(due_s, link_s, arrival_s)
        # Between events nothing changes: what was to be told since the last one is told now.
        while world.tell_s <= min(at_s, until_s) and min(at_s, until_s) < np.inf:
            _tell(s)
        if at_s > until_s or at_s == np.inf:
            if until_s < np.inf:
                world.now_s = until_s
            return True
        if world.crowded:
            return False
        world.now_s = at_s
        if due_s == at_s:
            i = complete(s, station)
            s.flows[i].stage += 1
            step = _STAGE
        elif link_s == at_s:
            entry = _pop_deferred(s)
            i = entry >> 1
            step = _LAND if entry & 1 else _REACH
        else:
            i = world.next_flow
            world.next_flow += 1
            step = _ACCEPT
        # In the order of a flow's way, so that each step is compiled into the loop once.
        while step != _AWAY:
            if step == _ACCEPT:
                step = _accept(s, i)
            if step == _TO_SERVER:
                step = _defer(s, s.flows[i].there_s, 2 * i, _REACH)
            if step == _REACH:
                step = _reach(s, i)
            if step == _STAGE:
                step = _next_stage(s, i)
            if step == _LEAVE:
                step = _leave(s, i)
            if step == _LAND:
                step = _land(s, i)


@outer
def _tell(s: State) -> None:
    """One balancer tells all others what it has, who keep it until it tells them again."""
    world = s.world[0]
    teller = world.teller
    for slot in range(s.q.shape[1]):
        view, last = s.views[teller, slot], s.last[teller, slot]
        q = s.q[teller, slot]
        for m in range(s.q.shape[0]):
            if m != teller:
                told = s.told[m, slot]
                s.seen[m, slot] += q - last.q
                told.start_s += view.start_s - last.start_s
                told.accepted += view.accepted - last.accepted
                told.failed += view.failed - last.failed
                told.answered += view.answered - last.answered
                told.duration_ns += view.duration_ns - last.duration_ns
        last.q = q
        last.start_s, last.accepted, last.failed = view.start_s, view.accepted, view.failed
        last.answered, last.duration_ns = view.answered, view.duration_ns
    world.teller = (teller + 1) % s.q.shape[0]
    gap_s = s.balancers[world.teller].phase_s - s.balancers[teller].phase_s
    world.tell_s += gap_s if world.teller else gap_s + world.tell_every_s


@inner
def _defer(s: State, link_s: float, entry: int, then: int) -> int:
    """Over a link, which takes its time unless the links of the scenario take none."""
    if not s.world[0].linked:
        return then
    _push_deferred(s, s.world[0].now_s + link_s, entry)
    return _AWAY


@inner
def _accept(s: State, i: int) -> int:
    """A flow is at its balancer: choose its server."""
    now_s, flow = s.world[0].now_s, s.flows[i]
    m = flow.balancer
    balancer = s.balancers[m]
    if balancer.accepted_s >= 0.0:
        at = int(uniform(s) * s.gap_ns.shape[1])
        s.gap_ns[m, at] = np.uint64((now_s - balancer.accepted_s) * 1e9)
        s.gap_t_ns[m, at] = np.uint64(clock_ns(now_s))
    balancer.accepted_s = now_s
    return _send(s, i, dispatch.choose(s, m, i))


@inner
def _send(s: State, i: int, slot: int) -> int:
    """To the server that was chosen; a flow without one ends here."""
    flow = s.flows[i]
    if slot == NONE:
        flow.outcome = UNROUTED
        flow.done_s = s.world[0].now_s
        return _AWAY
    flow.server = slot
    s.q[flow.balancer, slot] += 1.0
    s.seen[flow.balancer, slot] += 1.0
    s.servers[slot].flows += 1.0
    view = s.views[flow.balancer, slot]
    view.accepted += 1
    view.start_s += flow.at_s
    _promise(s, i, 1.0)
    return _TO_SERVER


@outer
def _retry(s: State, i: int) -> int:
    """At another server than those that refused."""
    flow = s.flows[i]
    s.tried[i, flow.retries] = flow.server
    slot = dispatch.choose_but(s, flow.balancer, i, flow.retries + 1)
    if slot == NONE:
        flow.outcome = FAILED
        return _AWAY
    flow.retries += 1
    return _send(s, i, slot)


@inner
def _promise(s: State, i: int, sign: float) -> None:
    """Count the work of the stages from the present one on as its server's, or no longer."""
    flow = s.flows[i]
    count = s.q.shape[1]
    for stage in range(flow.stage, s.work_s.shape[1]):
        s.stations[flow.server + count * (stage & 1)].left_s += sign * s.work_s[i, stage]


@inner
def _reach(s: State, i: int) -> int:
    """A flow is at its server, which may be down or full."""
    flow = s.flows[i]
    server, cpu = s.servers[flow.server], s.stations[flow.server]
    if not server.up:
        flow.outcome = REFUSED
    elif cpu.serving >= cpu.places and cpu.waiting >= server.backlog:
        flow.outcome = REJECTED
    else:
        return _STAGE
    _promise(s, i, -1.0)
    return _LEAVE


@inner
def _next_stage(s: State, i: int) -> int:
    """Join the queue of the flow's next stage that has work, or be done."""
    flow = s.flows[i]
    stages = s.work_s.shape[1]
    while flow.stage < stages and s.work_s[i, flow.stage] <= 0.0:
        flow.stage += 1
    if flow.stage == stages:
        flow.outcome = FINISHED
        return _LEAVE
    at = flow.server + s.q.shape[1] * (flow.stage & 1)
    bring_up_to(s.stations[at], s.world[0].now_s)
    join(s, at, i, s.work_s[i, flow.stage])
    return _AWAY


@inner
def _leave(s: State, i: int) -> int:
    """The server is done with the flow, one way or another."""
    flow = s.flows[i]
    slot, count = flow.server, s.q.shape[1]
    if s.balancers[0].policy == JIQ:
        cpu, io = s.stations[slot], s.stations[slot + count]
        if s.servers[slot].up and cpu.serving + cpu.waiting + io.serving == 0:
            dispatch.idle(s, slot)
    return _defer(s, flow.back_s, 2 * i + 1, _LAND)


@inner
def _land(s: State, i: int) -> int:
    """The balancer sees the end of the flow."""
    now_s, flow = s.world[0].now_s, s.flows[i]
    m, slot = flow.balancer, flow.server
    flow.done_s = now_s
    view = s.views[m, slot]
    duration_ns = (now_s - flow.at_s) * 1e9
    if flow.outcome == FINISHED:
        # The first byte of an answer comes before a flow's end: it counts itself yet.
        view.answered += 1
        view.duration_ns += int(duration_ns)
        at = int(uniform(s) * s.duration_ns.shape[2])
        now_ns = clock_ns(now_s)
        s.duration_ns[m, slot, at] = np.uint64(duration_ns)
        s.duration_t_ns[m, slot, at] = np.uint64(now_ns)
        dispatch.sampled(s, m, slot, float(now_ns), duration_ns)
    s.q[m, slot] -= 1.0
    s.seen[m, slot] -= 1.0
    s.servers[slot].flows -= 1.0
    view.start_s -= flow.at_s
    if flow.outcome != FINISHED:
        view.failed += 1
        dispatch.failed(s, m, slot, duration_ns)
    if s.q[m, slot] == 0.0:
        view.start_s = 0.0  # what rounding left
    if flow.outcome == REFUSED:
        if flow.retries < RETRIES:
            return _retry(s, i)
        flow.outcome = FAILED
    return _AWAY


@outer
def fail(s: State, slot: int) -> None:
    """The server goes down and resets what it has. Links need room for all of it."""
    count = s.q.shape[1]
    s.servers[slot].up = 0
    for at in (slot, slot + count):
        station = s.stations[at]
        bring_up_to(station, s.world[0].now_s)
        serving, waiting = station.serving, station.waiting
        station.serving = station.waiting = 0
        schedule(s, at)
        for place in range(serving + waiting):
            if place < serving:
                i = s.heap_flow[at, place]
                # What it has had of this stage is off the books already.
                left_s = s.heap_virtual[at, place] - station.virtual
                station.left_s += s.work_s[i, s.flows[i].stage] - left_s
            else:
                i = s.ring[at, (station.head + place - serving) % s.ring.shape[1]]
            _promise(s, i, -1.0)
            s.flows[i].outcome = FAILED
            if _leave(s, i) == _LAND:
                _land(s, i)
        station.head = 0
        station.virtual = 0.0


@outer
def set_speed(s: State, slot: int, cpu: float, io: float) -> None:
    """Both stations of a server go at another speed from now on."""
    count = s.q.shape[1]
    for at, speed in ((slot, cpu), (slot + count, io)):
        bring_up_to(s.stations[at], s.world[0].now_s)
        s.stations[at].speed = speed
        schedule(s, at)


@inner
def _push_deferred(s: State, at_s: float, entry: int) -> None:
    """A binary heap by time; on a tie the entry with the lower number is first."""
    world, keys, entries = s.world[0], s.deferred_s, s.deferred
    hole = world.deferred
    world.deferred += 1
    if world.deferred + 2 >= len(keys):
        world.crowded = 1
    while hole > 0:
        parent = (hole - 1) >> 1
        if keys[parent] < at_s or (keys[parent] == at_s and entries[parent] < entry):
            break
        keys[hole], entries[hole] = keys[parent], entries[parent]
        hole = parent
    keys[hole], entries[hole] = at_s, entry


@inner
def _pop_deferred(s: State) -> int:
    world, keys, entries = s.world[0], s.deferred_s, s.deferred
    first = entries[0]
    world.deferred -= 1
    size = world.deferred
    key, entry = keys[size], entries[size]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            keys[right] < keys[child]
            or (keys[right] == keys[child] and entries[right] < entries[child])
        ):
            child = right
        if key < keys[child] or (key == keys[child] and entry < entries[child]):
            break
        keys[hole], entries[hole] = keys[child], entries[child]
        hole = child
    keys[hole], entries[hole] = key, entry
    return first
