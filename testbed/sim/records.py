"""The state of a run, as arrays that compiled loops work on.

Lives here: the records, their units, their allocation. Never here: what happens to them.
M balancers, N servers, F flows. Station j is the CPU of server j, station N + j its I/O.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lbd.dispatch.hcl import HISTORY
from lbd.dispatch.policy import tie_row, tie_starts
from testbed.sim.scenario import Scenario
from testbed.sim.workload import Workload

START_NS = 7 * 86_400 * 10**9
"""Clock of the monotonic kind at time 0: a week of uptime, too long for float32 nanoseconds."""

# Outcomes of a flow; PENDING while it is on its way.
# REFUSED is for the moment: the flow is tried elsewhere, or fails.
PENDING, FINISHED, REJECTED, FAILED, UNROUTED, REFUSED = range(6)

RETRIES = 2
"""Further attempts of a flow whose server refused it, each at another one, as `lbd` has it."""

F8, I8 = np.float64, np.int64

WORLD = np.dtype(
    [
        ("now_s", F8),
        ("random", np.uint64),  # state of the generator
        ("next_flow", I8),
        ("deferred", I8),  # entries of the heap of flows on a link
        ("usable", I8),  # entries of `usable`
        ("leaves", I8),  # of the tournament tree, a power of two
        ("linked", I8),  # 1 if links take time
        ("crowded", I8),  # 1 if an array is nearly full: the state must grow
        ("tell_s", F8),  # when a balancer tells the others next; infinite if never
        ("tell_every_s", F8),
        ("teller", I8),
    ]
)
FLOW = np.dtype(
    [
        ("at_s", F8),
        ("there_s", F8),
        ("back_s", F8),
        ("done_s", F8),
        ("balancer", np.int32),
        ("server", np.int32),
        ("stage", np.int32),
        ("outcome", np.int32),
        ("retries", np.int32),
        ("client", I8),
    ]
)
STATION = np.dtype(
    [
        ("virtual", F8),  # work a job present since it was last idle would have had
        ("since_s", F8),  # up to when `virtual` is right
        ("speed", F8),
        ("cpus", F8),
        ("places", I8),
        ("serving", I8),
        ("head", I8),  # of the ring of those that wait
        ("waiting", I8),
        ("left_s", F8),  # work of those in service, waiting and on the link
        ("busy_s", F8),  # time with a job in service, times CPUs in use
    ]
)
SERVER = np.dtype(
    [
        ("up", I8),
        ("flows", F8),  # q over all balancers
        ("capacity", F8),  # true, in flows a second
        ("backlog", I8),
        ("listed", I8),  # 1 if in a join-idle-queue list
    ]
)
BALANCER = np.dtype(
    [
        ("policy", I8),
        ("memory_flows", F8),  # of the latency averages; 0: by seconds
        ("memory_s", F8),
        ("failing", I8),
        ("samples", I8),
        ("accepted_s", F8),  # last arrival, negative before the first
        ("turn", I8),  # round robin's last
        ("unseen", I8),  # usable backends without a sample
        ("choices", I8),  # hot-cold's
        ("hot_above", F8),
        ("history", I8),  # entries ever put into it
        ("phase_s", F8),  # when it tells the others, after each multiple of `tell_every_s`
        ("idle_head", I8),
        ("idle", I8),
    ]
)
VIEW = np.dtype(
    [
        ("unseen", I8),
        ("count", F8),  # samples of the latency average
        ("last_ns", F8),
        ("charge", F8),
        ("failed_ns", F8),
        ("sampled_at", I8),
        ("credit", F8),  # smooth weighted round robin's
        ("start_s", F8),  # sum of the start times of flows in progress
        ("accepted", I8),
        ("failed", I8),
        ("answered", I8),
        ("duration_ns", I8),  # the sum of those
    ]
)
TOLD = np.dtype(
    [
        ("q", F8),
        *(
            (name, VIEW[name])
            for name in ("start_s", "accepted", "failed", "answered", "duration_ns")
        ),
    ]
)
"""What balancers tell each other."""


class State(NamedTuple):
    """Everything that changes. (M, N) unless said otherwise; the numbers are documented above."""

    world: NDArray[np.void]  # (1,)
    flows: NDArray[np.void]  # (F,)
    work_s: NDArray[np.float64]  # (F, STAGES)
    tried: NDArray[np.int32]  # (F, RETRIES): servers that refused the flow
    stations: NDArray[np.void]  # (2N,)
    heap_virtual: NDArray[np.float64]  # (2N, jobs): virtual time at which a job is done, a heap
    heap_flow: NDArray[np.int64]  # (2N, jobs)
    ring: NDArray[np.int64]  # (2N, jobs): those that wait for a place
    due_s: NDArray[np.float64]  # (leaves,): next completion of each station
    winner: NDArray[np.int64]  # (2 leaves,): tournament tree over due_s
    deferred_s: NDArray[np.float64]  # (jobs,): heap of arrivals at the other end of a link
    deferred: NDArray[np.int64]  # (jobs,): 2 * flow, + 1 on the way back
    servers: NDArray[np.void]  # (N,)
    balancers: NDArray[np.void]  # (M,)
    views: NDArray[np.void]
    told: NDArray[np.void]  # sums over the others, q apart
    last: NDArray[np.void]  # what each has told last
    q: NDArray[np.float64]
    seen: NDArray[np.float64]  # q, and what other balancers told of theirs
    weight: NDArray[np.float64]
    cost: NDArray[np.float64]  # infinite for what may not be chosen
    offset: NDArray[np.float64]  # what is added to q, 1 but for policies that learn it
    mean_ns: NDArray[np.float64]  # latency averages
    filled_ns: NDArray[np.float64]  # (N,) scratch, as are pool (N,) and ranked (HISTORY,)
    pool: NDArray[np.int64]
    ranked: NDArray[np.float64]
    usable: NDArray[np.int64]  # (N,): slots that may be chosen, ascending
    duration_t_ns: NDArray[np.uint64]  # (M, N, K) reservoirs
    duration_ns: NDArray[np.uint64]
    gap_t_ns: NDArray[np.uint64]  # (M, K)
    gap_ns: NDArray[np.uint64]
    tie_row: NDArray[np.float64]
    tie_start: NDArray[np.int64]
    table: NDArray[np.int64]  # maglev's and source_hash's lookup
    history: NDArray[np.float64]  # (M, HISTORY): hot-cold's recent q
    idle: NDArray[np.int64]  # (M, N): join-idle-queue's lists


def allocate(scenario: Scenario, workload: Workload, seed: int, reservoir: int) -> State:
    """A state before the first flow: all servers up, none usable, no policy set."""
    backends = scenario.backends
    count, balancers, flows = len(backends), scenario.balancers, len(workload)
    jobs = max(server.places + server.backlog for server in backends) + 64
    state = State(
        world=np.zeros(1, WORLD),
        flows=np.zeros(flows, FLOW),
        work_s=np.ascontiguousarray(workload.work_s),
        tried=np.zeros((flows, RETRIES), np.int32),
        stations=np.zeros(2 * count, STATION),
        heap_virtual=np.zeros((2 * count, jobs)),
        heap_flow=np.zeros((2 * count, jobs), I8),
        ring=np.zeros((2 * count, jobs), I8),
        due_s=np.full(1 << (2 * count - 1).bit_length(), np.inf),
        winner=np.zeros(2 << (2 * count - 1).bit_length(), I8),
        deferred_s=np.zeros(1024),
        deferred=np.zeros(1024, I8),
        servers=np.zeros(count, SERVER),
        balancers=np.zeros(balancers, BALANCER),
        told=np.zeros((balancers, count), TOLD),
        last=np.zeros((balancers, count), TOLD),
        views=np.zeros((balancers, count), VIEW),
        q=np.zeros((balancers, count)),
        seen=np.zeros((balancers, count)),
        weight=np.ones((balancers, count)),
        cost=np.full((balancers, count), np.inf),
        offset=np.ones((balancers, count)),
        mean_ns=np.zeros((balancers, count)),
        filled_ns=np.zeros(count),
        pool=np.zeros(count, I8),
        ranked=np.zeros(HISTORY),
        usable=np.zeros(count, I8),
        duration_t_ns=np.zeros((balancers, count, reservoir), np.uint64),
        duration_ns=np.zeros((balancers, count, reservoir), np.uint64),
        gap_t_ns=np.zeros((balancers, reservoir), np.uint64),
        gap_ns=np.zeros((balancers, reservoir), np.uint64),
        tie_row=tie_row(count),
        tie_start=tie_starts(),
        table=np.zeros(1, I8),
        history=np.zeros((balancers, HISTORY)),
        idle=np.zeros((balancers, count), I8),
    )
    world = state.world[0]
    world["random"] = np.uint64(seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    world["leaves"] = len(state.due_s)
    world["linked"] = int(scenario.link_s[1] > 0)
    if scenario.tell_s is not None and balancers > 1:
        phases = np.random.default_rng([seed, 98]).random(balancers)
        state.balancers["phase_s"] = np.sort(phases) * scenario.tell_s
        world["tell_every_s"] = scenario.tell_s
        world["tell_s"] = state.balancers["phase_s"][0]
    else:
        world["tell_s"] = np.inf
    # Leaf i stands at leaves + i, its subtree's winner at every node above.
    leaves = len(state.due_s)
    state.winner[leaves:] = np.arange(leaves)
    for node in range(leaves - 1, 0, -1):
        state.winner[node] = state.winner[2 * node]

    state.flows["at_s"] = workload.at_s
    state.flows["there_s"], state.flows["back_s"] = workload.there_s, workload.back_s
    state.flows["balancer"], state.flows["client"] = workload.balancer, workload.client
    state.flows["server"] = -1
    cpu, io = state.stations[:count], state.stations[count:]
    cpu["cpus"] = [server.cpus for server in backends]
    cpu["places"] = [server.places for server in backends]
    cpu["speed"] = [server.speed for server in backends]
    io["cpus"], io["places"] = 1.0, np.iinfo(np.int64).max
    io["speed"] = [server.io_speed for server in backends]
    state.servers["up"] = 1
    state.servers["backlog"] = [server.backlog for server in backends]
    state.servers["capacity"] = scenario.capacity_per_s()
    state.balancers["accepted_s"] = -1.0
    state.balancers["memory_flows"] = 200.0
    state.balancers["hot_above"] = np.inf
    state.balancers["unseen"] = count
    state.views["charge"] = 1.0
    state.views["unseen"] = 1
    return state


def grown(state: State) -> State:
    """The same state with room for twice as many jobs a station and flows on links."""

    def doubled(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.concatenate([array, np.zeros_like(array)], axis=-1)

    jobs = state.ring.shape[1]
    # Rings are straightened first: their order must survive a new length.
    for station, ring in zip(state.stations, state.ring, strict=True):
        ring[:] = np.roll(ring, -int(station["head"]) % jobs)
        station["head"] = 0
    wider = ("heap_virtual", "heap_flow", "ring", "deferred_s", "deferred")
    return state._replace(**{name: doubled(getattr(state, name)) for name in wider})
