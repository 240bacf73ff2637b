"""Which backend a new flow gets: the rules of `lbd.dispatch`, and those only a simulator can have.

Lives here: compiled mirrors, held to the live rules choice by choice by tests that feed both the
same random numbers; then rules with a view of all balancers, as references. Never here: weights
that change by the clock (`testbed.sim.policies`).
"""

from __future__ import annotations

import numpy as np

from lbd.dispatch.hcl import HISTORY, HOT_QUANTILE, POOL, REFRESH_EVERY
from lbd.dispatch.latency import FORGIVE_FLOWS
from lbd.dispatch.maglev import TABLE_SIZE
from lbd.dispatch.policy import NONE
from lbd.dispatch.source_hash import BOUND, STEPS_A_BACKEND
from testbed.sim.compiled import latency
from testbed.sim.compiled.jit import inner, outer
from testbed.sim.compiled.random import uniform
from testbed.sim.compiled.sums import add_up
from testbed.sim.records import START_NS, State

RR, WRR, ECMP, WCMP, LSQ, SED, P2C, EWMA, LEAST_TIME, HCL, MAGLEV, SOURCE_HASH = range(12)
GLOBAL_SED, ORACLE, JIQ = range(12, 15)
"""GLOBAL_SED: true capacities and the queues of all balancers, the reference. ORACLE: least time to
finish all that a server has and the new flow. JIQ: join idle queue (Lu et al., "Join-Idle-Queue",
2011)."""
BY_TABLE = (MAGLEV, SOURCE_HASH)
"""Those that look a client up in `State.table`."""


@outer
def refresh(s: State, m: int) -> None:
    """What is usable, or a weight, has changed."""
    policy = s.balancers[m].policy
    cost, weight = s.cost[m], s.weight[m]
    usable = s.usable[: s.world[0].usable]
    if policy == WRR:
        _refresh_wrr(s, m)
        return
    cost[:] = np.inf
    if policy == EWMA:
        latency.fill(s, m)
        for slot in usable:
            cost[slot] = s.filled_ns[slot]
    elif policy == SED:
        for slot in usable:
            cost[slot] = 1.0 / weight[slot]
    else:
        for slot in usable:
            cost[slot] = 1.0


@inner
def _refresh_wrr(s: State, m: int) -> None:
    at = 0
    for slot in range(s.q.shape[1]):
        if at < s.world[0].usable and s.usable[at] == slot:
            at += 1
        else:
            s.views[m, slot].credit = 0.0


@outer
def forget(s: State, m: int, slot: int) -> None:
    """`slot` is another backend's or nobody's; `refresh` is to follow. Mirrors `inherit`."""
    balancer, view = s.balancers[m], s.views[m, slot]
    latency.forget(s, m, slot)
    balancer.unseen += 1 - view.unseen
    view.unseen = 1
    view.credit = 0.0


@inner
def _per_flow_ns(s: State, m: int, slot: int, time_ns: float) -> float:
    return time_ns / max(s.seen[m, slot], 1.0)


@inner
def sampled(s: State, m: int, slot: int, now_ns: float, duration_ns: float) -> None:
    """A flow on `slot`, which counts yet, was answered after `duration_ns`."""
    balancer = s.balancers[m]
    policy = balancer.policy
    if policy != EWMA and policy != LEAST_TIME and policy != HCL:
        return
    if policy == HCL:
        duration_ns = _per_flow_ns(s, m, slot, duration_ns)
    others_too = balancer.failing > 0 or balancer.unseen > 0
    mean_ns = latency.add(s, m, slot, now_ns, duration_ns)
    if balancer.samples % FORGIVE_FLOWS == 0 and latency.forgive(s, m):
        others_too = True
    if policy == EWMA and others_too:
        _seen(s, m, slot)
        refresh(s, m)
    elif policy == EWMA and s.cost[m, slot] < np.inf:
        s.cost[m, slot] = max(mean_ns, 1.0)


@outer
def _seen(s: State, m: int, slot: int) -> None:
    """`slot` has a sample now; slots out of use need none, also when they come back."""
    views = s.views[m]
    views[slot].unseen = 0
    unseen, at = 0, 0
    for other in range(s.q.shape[1]):
        if at < s.world[0].usable and s.usable[at] == other:
            at += 1
            unseen += views[other].unseen
        else:
            views[other].unseen = 0
    s.balancers[m].unseen = unseen


@outer
def failed(s: State, m: int, slot: int, age_ns: float) -> None:
    """`slot` failed a flow that was `age_ns` old, and counts no more."""
    policy = s.balancers[m].policy
    if policy == EWMA:
        latency.add_failure(s, m, slot, age_ns)
        refresh(s, m)
    elif policy == LEAST_TIME:
        latency.add_failure(s, m, slot, age_ns)
    elif policy == HCL:
        latency.add_failure(s, m, slot, _per_flow_ns(s, m, slot, age_ns))


@inner
def choose(s: State, m: int, flow: int) -> int:
    """The slot for `flow`, or NONE."""
    count = s.world[0].usable
    if count == 0:
        return NONE
    policy = s.balancers[m].policy
    if policy == SED or policy == LSQ or policy == EWMA:
        return _least_score(s, m)
    if policy == ECMP:
        return s.usable[int(uniform(s) * count)]
    if policy == WCMP:
        return _wcmp(s, m, count)
    if policy == RR:
        s.balancers[m].turn = (s.balancers[m].turn + 1) % count
        return s.usable[s.balancers[m].turn]
    if policy == WRR:
        return _wrr(s, m, count)
    if policy == P2C:
        return _p2c(s, m, count)
    if policy == LEAST_TIME:
        return _least_time(s, m)
    if policy == HCL:
        return _hcl(s, m, count)
    if policy == MAGLEV:
        return s.table[s.flows[flow].client % TABLE_SIZE]
    if policy == SOURCE_HASH:
        return _source_hash(s, m, flow, count)
    if policy == GLOBAL_SED:
        return _global_sed(s)
    if policy == ORACLE:
        return _oracle(s, flow)
    return _jiq(s, m, count)


@outer
def choose_but(s: State, m: int, flow: int, barred: int) -> int:
    """The slot for `flow`, but none of the first `barred` that it tried; or NONE."""
    world = s.world[0]
    count, left = world.usable, 0
    for at in range(count):
        slot = s.usable[at]
        if not _tried(s, flow, slot, barred):
            # To the front; what is barred moves up, and back into order below.
            for hole in range(at, left, -1):
                s.usable[hole] = s.usable[hole - 1]
            s.usable[left] = slot
            left += 1
    world.usable = left
    if s.balancers[m].policy in BY_TABLE:
        chosen = _next_in_table(s, flow, barred) if left > 0 else NONE
    else:
        refresh(s, m)
        chosen = choose(s, m, flow)
    for at in range(left, count):
        slot, hole = s.usable[at], at
        while hole > 0 and s.usable[hole - 1] > slot:
            s.usable[hole] = s.usable[hole - 1]
            hole -= 1
        s.usable[hole] = slot
    world.usable = count
    refresh(s, m)
    return chosen


@inner
def _tried(s: State, flow: int, slot: int, count: int) -> bool:
    for at in range(count):
        if s.tried[flow, at] == slot:
            return True
    return False


@inner
def _next_in_table(s: State, flow: int, barred: int) -> int:
    at = s.flows[flow].client % TABLE_SIZE
    while _tried(s, flow, s.table[at], barred):
        at = (at + 1) % TABLE_SIZE
    return s.table[at]


@inner
def _least_score(s: State, m: int) -> int:
    tie = s.tie_start[int(uniform(s) * len(s.tie_start))]
    best, best_score = 0, np.inf
    for slot in range(s.q.shape[1]):
        score = (s.seen[m, slot] + s.offset[m, slot] * s.tie_row[tie + slot]) * s.cost[m, slot]
        if score < best_score:
            best, best_score = slot, score
    return best


@outer
def _wcmp(s: State, m: int, count: int) -> int:
    weight = s.weight[m]
    total = 0.0
    for at in range(count):
        total += weight[s.usable[at]]
    mark, edge = uniform(s) * total, 0.0
    for at in range(count):
        edge += weight[s.usable[at]]
        if edge > mark:
            return s.usable[at]
    return s.usable[count - 1]


@outer
def _wrr(s: State, m: int, count: int) -> int:
    views, weight, gain = s.views[m], s.weight[m], s.filled_ns
    gain[:] = 0.0
    best = s.usable[0]
    for at in range(count):
        slot = s.usable[at]
        gain[slot] = weight[slot]
        views[slot].credit += weight[slot]
        if views[slot].credit > views[best].credit:
            best = slot
    views[best].credit -= add_up(gain, len(gain))
    return best


@outer
def _p2c(s: State, m: int, count: int) -> int:
    if count < 2:
        return s.usable[0]
    first = int(uniform(s) * count)
    second = int(uniform(s) * (count - 1))
    if second >= first:
        second += 1
    a, b = s.usable[first], s.usable[second]
    score_a = (s.seen[m, a] + 1.0) * s.weight[m, b]
    score_b = (s.seen[m, b] + 1.0) * s.weight[m, a]
    return a if score_a <= score_b else b


@outer
def _least_time(s: State, m: int) -> int:
    now_s = s.world[0].now_s
    latency.fill(s, m)
    for slot in s.usable[: s.world[0].usable]:
        waiting = s.q[m, slot]
        age_ns = max((waiting * now_s - s.views[m, slot].start_s) * 1e9, 0.0)
        pending_ns = age_ns / max(waiting, 1.0)
        s.cost[m, slot] = max(s.filled_ns[slot], pending_ns) / s.weight[m, slot]
    return _least_score(s, m)


@outer
def _hcl(s: State, m: int, count: int) -> int:
    pool = s.pool
    for at in range(count):
        pool[at] = s.usable[at]
    if count > POOL:
        # The first POOL of a random order (Fisher and Yates).
        for at in range(POOL):
            other = at + int(uniform(s) * (count - at))
            pool[at], pool[other] = pool[other], pool[at]
        count = POOL
    pool = pool[:count]
    balancer, history, q = s.balancers[m], s.history[m], s.seen[m]
    for slot in pool:
        history[balancer.history % HISTORY] = q[slot]
        balancer.history += 1
    balancer.choices += 1
    if balancer.choices % REFRESH_EVERY == 1:
        balancer.hot_above = _quantile(s, m, HOT_QUANTILE)
    latency.fill(s, m)
    best, best_score = NONE, np.inf
    for slot in pool:
        if q[slot] <= balancer.hot_above:
            score = s.filled_ns[slot] * (q[slot] + 1.0) * (1.0 + 1e-9 * uniform(s))
            if best == NONE or score < best_score:
                best, best_score = slot, score
    if best != NONE:
        return best
    for slot in pool:
        score = q[slot] + uniform(s)  # whole numbers and less than one
        if best == NONE or score < best_score:
            best, best_score = slot, score
    return best


@outer
def _source_hash(s: State, m: int, flow: int, count: int) -> int:
    weight, q, room, flows = s.weight[m], s.seen[m], s.filled_ns, 1.0
    for at in range(count):
        room[at] = weight[s.usable[at]]
        flows += q[s.usable[at]]
    total = add_up(room, count)
    for slot in s.usable[:count]:
        room[slot] = np.ceil(BOUND * flows * (weight[slot] / total)) - q[slot]
    key = s.flows[flow].client
    at, stride = key % TABLE_SIZE, 1 + key // TABLE_SIZE % (TABLE_SIZE - 1)
    for _ in range(1 + STEPS_A_BACKEND * count):
        if room[s.table[at]] >= 1.0:
            return s.table[at]
        at = (at + stride) % TABLE_SIZE
    best = s.usable[0]
    for slot in s.usable[1:count]:
        if room[slot] > room[best]:
            best = slot
    return best


@outer
def _quantile(s: State, m: int, share: float) -> float:
    """Of the balancer's history, linear between neighbours as numpy has it."""
    count = min(s.balancers[m].history, HISTORY)
    ranked = s.ranked
    for at in range(count):
        value, hole = s.history[m, at], at
        while hole > 0 and ranked[hole - 1] > value:
            ranked[hole] = ranked[hole - 1]
            hole -= 1
        ranked[hole] = value
    place = share * (count - 1)
    below = int(place)
    low, high, part = ranked[below], ranked[min(below + 1, count - 1)], place - below
    # From the nearer end, as numpy does.
    return low + part * (high - low) if part < 0.5 else high - (1.0 - part) * (high - low)


@outer
def _global_sed(s: State) -> int:
    best, best_score = NONE, np.inf
    for slot in s.usable[: s.world[0].usable]:
        server = s.servers[slot]
        score = (server.flows + 1.0 + 1e-9 * uniform(s)) / server.capacity
        if score < best_score:
            best, best_score = slot, score
    return best


@outer
def _oracle(s: State, flow: int) -> int:
    """Least time until everything there and the new flow are done."""
    now_s, count = s.world[0].now_s, s.q.shape[1]
    cpu_s = io_s = 0.0
    for stage in range(s.work_s.shape[1]):
        if stage & 1:
            io_s += s.work_s[flow, stage]
        else:
            cpu_s += s.work_s[flow, stage]
    best, best_score = NONE, np.inf
    for slot in s.usable[: s.world[0].usable]:
        cpu, io = s.stations[slot], s.stations[slot + count]
        # Since `since_s` the station has worked on; at one of many CPUs, job by job.
        cpu_left = cpu.left_s - (now_s - cpu.since_s) * cpu.speed * min(
            float(cpu.serving), cpu.cpus
        )
        io_left = io.left_s - (now_s - io.since_s) * io.speed * min(float(io.serving), 1.0)
        alone_s = cpu_s / cpu.speed + io_s / io.speed
        queued_s = max((cpu_left + cpu_s) / (cpu.speed * cpu.cpus), (io_left + io_s) / io.speed)
        score = max(alone_s, queued_s) * (1.0 + 1e-9 * uniform(s))
        if score < best_score:
            best, best_score = slot, score
    return best


@outer
def idle(s: State, slot: int) -> None:
    """The server has nothing to do: it says so to one balancer."""
    if s.servers[slot].listed:
        return
    s.servers[slot].listed = 1
    m = int(uniform(s) * len(s.balancers))
    balancer = s.balancers[m]
    s.idle[m, (balancer.idle_head + balancer.idle) % s.idle.shape[1]] = slot
    balancer.idle += 1


@outer
def _jiq(s: State, m: int, count: int) -> int:
    balancer = s.balancers[m]
    while balancer.idle > 0:
        slot = s.idle[m, balancer.idle_head]
        balancer.idle_head = (balancer.idle_head + 1) % s.idle.shape[1]
        balancer.idle -= 1
        s.servers[slot].listed = 0
        for at in range(count):
            if s.usable[at] == slot:
                return slot
    return s.usable[int(uniform(s) * count)]


@inner
def clock_ns(now_s: float) -> int:
    """The monotonic clock at `now_s` of simulated time."""
    return START_NS + int(now_s * 1e9)
