"""Scenarios and workloads for the tests beside it, given and not drawn, and a slow reference."""

from __future__ import annotations

import heapq

import numpy as np

from testbed.server.discipline import BlockedProcessorSharing
from testbed.sim.compiled import dispatch
from testbed.sim.records import FINISHED, REJECTED
from testbed.sim.scenario import Application, Arrivals, Event, Resource, Scenario, Servers, Size
from testbed.sim.workload import STAGES, Workload
from testbed.sim.world import World

CPU_ONLY = (Application(stages=((Resource.CPU, Size(mean_s=1.0)),)),)
THREE_STAGES = (
    Application(
        stages=(
            (Resource.CPU, Size(mean_s=0.25)),
            (Resource.IO, Size(mean_s=0.5)),
            (Resource.CPU, Size(mean_s=0.25)),
        )
    ),
)
NO_LINKS = (0.0, 0.0)


def scenario(*servers: Servers, **changes: object) -> Scenario:
    values: dict[str, object] = {
        "name": "test",
        "balancers": 1,
        "servers": servers,
        "applications": CPU_ONLY,
        "arrivals": Arrivals(load=0.8),
        "duration_s": 60.0,
        "warmup_s": 0.0,
        "link_s": NO_LINKS,
    }
    return Scenario(**{**values, **changes})  # type: ignore[arg-type]


def given_flows(at_s: list[float], work_s: list[list[float]], **links_s: float) -> Workload:
    """Flows at `at_s` with the given work a stage, on balancer 0; links_s: there, back, edge."""
    count = len(at_s)
    work = np.zeros((count, STAGES))
    for row, stages in enumerate(work_s):
        work[row, : len(stages)] = stages
    none = np.zeros(count, np.int64)
    there, back, edge = (np.full(count, links_s.get(k, 0.0)) for k in ("there", "back", "edge"))
    return Workload(np.array(at_s, float), none, none.copy(), work, there, back, edge)


def finished(world: World) -> World:
    world.advance(np.inf)
    return world


def ran(of: Scenario, workload: Workload, policy: int = dispatch.LSQ) -> World:
    world = World(of, 0, workload)
    world.use(policy)
    return finished(world)


def reference(server: Servers, workload: Workload, events: tuple[Event, ...] = ()) -> list[float]:
    """When each flow is done at the one server, by `testbed.server.discipline`; inf: rejected.

    Events of speed only. At the same time: completions, the CPU's first, then arrivals; a change of
    speed comes after both.
    """
    cpu = BlockedProcessorSharing(
        cpus=server.cpus,
        in_service=server.places,
        backlog=server.backlog,
        speed=server.speed,
    )
    io = BlockedProcessorSharing(cpus=1, in_service=1 << 40, backlog=0, speed=server.io_speed)
    stations = [cpu, io]
    done = [np.inf] * len(workload)
    stage = [0] * len(workload)
    plan = [(at, 0, flow) for flow, at in enumerate(workload.at_s)]
    plan += [(event.at_s, 1, number) for number, event in enumerate(events)]
    heapq.heapify(plan)

    def move_on(flow: int, now_s: float) -> None:
        while stage[flow] < STAGES and workload.work_s[flow, stage[flow]] <= 0.0:
            stage[flow] += 1
        if stage[flow] == STAGES:
            done[flow] = now_s
            return
        stations[stage[flow] & 1].submit(flow, workload.work_s[flow, stage[flow]], now_s)

    while True:
        due = [station.next_event_s() for station in stations]
        first_s = min(*due, plan[0][0] if plan else np.inf)
        if first_s == np.inf:
            return done
        if first_s in due:
            # `advance` lets no other job end: those of the same moment come after, one by one.
            for flow, at_s in stations[due.index(first_s)].advance(first_s):
                stage[flow] += 1
                move_on(flow, at_s)
            continue
        _, kind, number = heapq.heappop(plan)
        if kind == 1:
            cpu.set_speed(server.speed * events[number].factor, first_s)
            io.set_speed(server.io_speed * events[number].factor, first_s)
        else:
            move_on(number, first_s)


def assert_as_reference(
    server: Servers, workload: Workload, events: tuple[Event, ...] = ()
) -> None:
    """Every flow ends at the reference's time, to the last bit, or is rejected as there.

    The reference reckons anew when it rejects a flow, the simulator does not: there they may differ
    by rounding.
    """
    world = ran(scenario(server, events=events), workload)
    expected = reference(server, workload, events)
    flows = world.state.flows
    rejected = np.isinf(expected)
    np.testing.assert_array_equal(flows["outcome"], np.where(rejected, REJECTED, FINISHED))
    rounding = 1e-12 if rejected.any() else 0.0
    found, wanted = flows["done_s"][~rejected], np.array(expected)[~rejected]
    np.testing.assert_allclose(found, wanted, rtol=rounding, atol=0.0)


def work_left_s(world: World) -> np.ndarray:
    """(2 servers,) work promised to each station, counted job by job; for worlds without links."""
    state = world.state
    left = np.zeros(len(state.stations))
    for at, station in enumerate(state.stations):
        jobs = [
            (state.heap_flow[at, k], state.heap_virtual[at, k] - station["virtual"])
            for k in range(station["serving"])
        ]
        for k in range(station["waiting"]):
            flow = state.ring[at, (station["head"] + k) % state.ring.shape[1]]
            jobs.append((flow, state.work_s[flow, state.flows[flow]["stage"]]))
        server = at % world.count
        for flow, here_s in jobs:
            left[at] += here_s
            for stage in range(state.flows[flow]["stage"] + 1, STAGES):
                left[server + world.count * (stage & 1)] += state.work_s[flow, stage]
    return left


def assert_nothing_left(world: World) -> None:
    """Every count of a world that has run to its end is back to 0, and every flow has an end."""
    state = world.state
    assert (state.flows["outcome"] > 0).all()
    assert not state.q.any()
    assert not state.servers["flows"].any()
    assert not state.views["start_s"].any()
    assert state.world[0]["deferred"] == 0
    assert not state.stations["serving"].any()
    assert not state.stations["waiting"].any()
    # Sums of doubles: what rounding leaves.
    np.testing.assert_allclose(state.stations["left_s"], 0.0, atol=1e-9)
