"""Scenarios at random: what a policy is trained on, and another draw of it to validate.

Lives here: the distribution. Never here: the held-out suite, which nothing trained may have seen
(`testbed/sim/suites`).
Randomised: balancers, servers, their CPUs, hidden speeds, service-time laws and scales, I/O,
load, bursts, ramps, changes of capacity, failures and returns, servers added and removed.
"""

from __future__ import annotations

import numpy as np

from testbed.load.sizes import Law
from testbed.sim.scenario import Application, Arrivals, Event, Resource, Scenario, Servers, Size

FLOWS = 40_000
"""About how many flows a scenario has; its duration follows, within bounds."""


ONE_CPU_SHARE = 0.4
"""Of the scenarios, those whose servers differ in nothing but speed."""


def scenario(seed: int) -> Scenario:
    """The scenario of that number."""
    rng = np.random.default_rng([0x7A11, seed])
    balancers = int(rng.choice([1, 2, 2, 2, 3, 4, 6]))
    servers = _servers(rng, balancers)
    if np.random.default_rng([0x51, seed]).random() < ONE_CPU_SHARE:
        servers = tuple(_one_cpu(group) for group in servers)
    draft = Scenario(
        name=f"train-{seed}",
        kind="train",
        balancers=balancers,
        servers=servers,
        applications=(_application(rng),),
        arrivals=Arrivals(load=1.0),
    )
    loads = [rng.uniform(0.5, 0.8), rng.uniform(0.8, 0.95), rng.uniform(0.9, 0.98)]
    load = float(rng.choice(loads))
    duration_s = float(np.clip(FLOWS / (load * draft.rate_per_s()), 40.0, 160.0))
    return Scenario(
        **{
            **dict(draft),
            "arrivals": _arrivals(rng, load, duration_s),
            "events": _events(rng, draft, duration_s),
            "duration_s": duration_s,
            "warmup_s": 0.2 * duration_s,
        }
    )


def _servers(rng: np.random.Generator, balancers: int) -> tuple[Servers, ...]:
    few, many = (4, 13) if balancers < 4 else (7, 25)
    count = int(rng.integers(few, many))
    # Two or three groups; within a group all are alike.
    cuts = np.sort(rng.choice(np.arange(1, count), size=int(rng.integers(1, 3)), replace=False))
    sizes = np.diff(np.concatenate([[0], cuts, [count]]))
    hidden = rng.random() < 0.5
    in_service = int(rng.choice([8, 32, 32, 128]))
    return tuple(
        Servers(
            count=int(size),
            cpus=int(rng.choice([1, 1, 2, 2, 4, 8])),
            speed=float(np.exp(rng.uniform(-0.8, 0.8))) if hidden else 1.0,
            in_service=in_service,
            backlog=1024,
        )
        for size in sizes
    )


def _one_cpu(group: Servers) -> Servers:
    """As much capacity, in one CPU that is as many times as fast."""
    return group.model_copy(update={"cpus": 1, "speed": group.cpus * group.speed})


def _application(rng: np.random.Generator) -> Application:
    mean_s = float(np.exp(rng.uniform(np.log(0.01), np.log(0.2))))
    kind = rng.random()
    if kind < 0.3:
        size = Size(mean_s=mean_s)
    elif kind < 0.4:
        size = Size(mean_s=mean_s, law=Law.FIXED)
    elif kind < 0.75:
        law = rng.choice([Law.LOGNORMAL, Law.HYPEREXPONENTIAL, Law.PARETO])
        size = Size(mean_s=mean_s, law=law, cv=float(np.exp(rng.uniform(0.1, 2.2))))
    else:
        size = Size(
            mean_s=mean_s,
            heavy_share=float(rng.uniform(0.05, 0.5)),
            heavy_ratio=float(rng.uniform(3, 30)),
        )
    if rng.random() < 0.25:
        share = float(rng.uniform(0.1, 0.4))
        cpu = size.model_copy(update={"mean_s": (1 - share) * mean_s})
        io = Size(mean_s=0.2 * share * mean_s)
        return Application(stages=((Resource.CPU, cpu), (Resource.IO, io)))
    return Application(stages=((Resource.CPU, size),))


def _arrivals(rng: np.random.Generator, load: float, duration_s: float) -> Arrivals:
    kind = rng.random()
    if kind < 0.6:
        return Arrivals(load=load)
    if kind < 0.8:
        return Arrivals(
            load=0.85 * load,
            burst_ratio=float(rng.uniform(1.3, 2.5)),
            burst_s=float(rng.uniform(0.5, 5)),
            calm_s=float(rng.uniform(2, 10)),
        )
    low, high = rng.uniform(0.4, 0.8), rng.uniform(1.0, 1.25)
    shape = ((0.0, low), (0.6, high), (0.75, high), (1.0, low))
    return Arrivals(
        load=0.9 * load, profile=tuple((share * duration_s, factor) for share, factor in shape)
    )


def _events(rng: np.random.Generator, draft: Scenario, duration_s: float) -> tuple[Event, ...]:
    if rng.random() < 0.5:
        return ()
    events: list[Event] = []
    count = len(draft.backends)
    for server in rng.choice(count, size=max(1, count // 4), replace=False):
        first_s, second_s = np.sort(rng.uniform(0.2, 0.95, 2)) * duration_s
        server = int(server)
        kind = rng.random()
        if kind < 0.7:
            factor = float(np.exp(rng.uniform(-1.2, 0.7)))
            events.append(Event(at_s=first_s, server=server, kind="speed", factor=factor))
            events.append(Event(at_s=second_s, server=server, kind="speed", factor=1.0))
        elif kind < 0.85:
            events.append(Event(at_s=first_s, server=server, kind="fail"))
            events.append(Event(at_s=second_s, server=server, kind="recover"))
        else:
            events.append(Event(at_s=first_s, server=server, kind="remove"))
            events.append(Event(at_s=second_s, server=server, kind="add"))
    return tuple(sorted(events, key=lambda event: event.at_s))
