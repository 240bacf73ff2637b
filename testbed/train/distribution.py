"""Scenarios at random: what a policy is trained on, and another draw of it to validate.

Lives here: the form of `distribution.yaml`, and how a scenario is drawn from it. Never here:
ranges; the held-out suite, which nothing trained may have seen (`testbed/sim/suites`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import yaml
from pydantic import AfterValidator, Field

from testbed.load.sizes import Law
from testbed.sim.scenario import (
    Application,
    Arrivals,
    Event,
    Model,
    Resource,
    Scenario,
    Servers,
    Size,
)

FILE = Path(__file__).with_name("distribution.yaml")

T = TypeVar("T")


def digest() -> str:
    """Of what scenarios are drawn from, 64 hex digits."""
    return hashlib.sha256(FILE.read_bytes()).hexdigest()


def _in_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("give [low, high]")
    return bounds


Between = Annotated[tuple[float, float], AfterValidator(_in_order)]
Share = Annotated[float, Field(ge=0, le=1)]


class ServersDrawn(Model):
    count: Between
    count_many: Between
    groups: dict[int, float]
    cpus: dict[int, float]
    hidden: Share
    log_speed: Between
    single: Share
    in_service: dict[int, float]
    backlog: dict[int, float]
    fifo: Share
    configured: Share
    log_weight: Between


class ApplicationsDrawn(Model):
    count: dict[int, float]
    log_mean_s: Between
    stages: dict[int, float]
    io_share: Between
    io_speed: float
    together: Share
    laws: dict[Law | Literal["pages"], float]
    log_cv: Between
    heavy_share: Between
    heavy_ratio: Between


class Bursts(Model):
    ratio: Between
    burst_s: Between
    calm_s: Between


class Ramp(Model):
    low: Between
    high: Between


class ArrivalsDrawn(Model):
    load: dict[Literal["moderate", "high", "highest"], float]
    moderate: Between
    high: Between
    highest: Between
    kinds: dict[Literal["steady", "bursts", "ramp"], float]
    bursts: Bursts
    ramp: Ramp


class EventsDrawn(Model):
    kinds: dict[Literal["none", "once", "restless"], float]
    servers: Share
    happening: dict[Literal["speed", "failure", "removal"], float]
    log_factor: Between
    log_every_s: Between


class Distribution(Model):
    """What can be drawn; `distribution.yaml` says what each field means."""

    flows: int
    duration_s: Between
    warmup: Share
    balancers: dict[int, float]
    told: Share
    log_tell_s: Between
    servers: ServersDrawn
    applications: ApplicationsDrawn
    arrivals: ArrivalsDrawn
    events: EventsDrawn


@cache
def shipped() -> Distribution:
    """Of `distribution.yaml`."""
    return Distribution(**yaml.safe_load(FILE.read_text()))


def scenario(seed: int) -> Scenario:
    """The scenario of that number."""
    return draw(shipped(), seed)


def draw(of: Distribution, seed: int) -> Scenario:
    """The scenario of that number in a distribution."""
    rng = np.random.default_rng([0x7A11, seed])
    balancers = _one_of(rng, of.balancers)
    told = balancers > 1 and rng.random() < of.told
    draft = Scenario(
        name=f"train-{seed}",
        kind="train",
        balancers=balancers,
        tell_s=_log_between(rng, of.log_tell_s) if told else None,
        servers=_servers(rng, of.servers, balancers),
        applications=_applications(rng, of.applications),
        arrivals=Arrivals(load=1.0),
    )
    load = _between(rng, getattr(of.arrivals, _one_of(rng, of.arrivals.load)))
    duration_s = float(np.clip(of.flows / (load * draft.rate_per_s()), *of.duration_s))
    return Scenario(
        **{
            **dict(draft),
            "arrivals": _arrivals(rng, of.arrivals, load, duration_s),
            "events": _events(rng, of.events, len(draft.backends), duration_s),
            "duration_s": duration_s,
            "warmup_s": of.warmup * duration_s,
        }
    )


def _between(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(rng.uniform(*bounds))


def _log_between(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _one_of(rng: np.random.Generator, chances: Mapping[T, float]) -> T:
    chance = np.array(list(chances.values()))
    return list(chances)[int(rng.choice(len(chance), p=chance / chance.sum()))]


def _servers(rng: np.random.Generator, of: ServersDrawn, balancers: int) -> tuple[Servers, ...]:
    count = round(_between(rng, of.count if balancers < 4 else of.count_many))
    groups = min(_one_of(rng, of.groups), count)
    cuts = np.sort(rng.choice(np.arange(1, count), size=groups - 1, replace=False))
    sizes = np.diff(np.concatenate([[0], cuts, [count]]))
    hidden, single = rng.random() < of.hidden, rng.random() < of.single
    configured = rng.random() < of.configured
    in_service, backlog = _one_of(rng, of.in_service), _one_of(rng, of.backlog)
    fifo = bool(rng.random() < of.fifo)
    found: list[Servers] = []
    for size in sizes:
        cpus = _one_of(rng, of.cpus)
        speed = _log_between(rng, of.log_speed) if hidden else 1.0
        if single:  # as much capacity, in one CPU
            cpus, speed = 1, cpus * speed
        weight = _log_between(rng, of.log_weight) if configured else None
        found.append(
            Servers(
                count=int(size),
                cpus=cpus,
                speed=speed,
                in_service=in_service,
                backlog=backlog,
                fifo=fifo,
                weight=weight,
            )
        )
    return tuple(found)


def _applications(rng: np.random.Generator, of: ApplicationsDrawn) -> tuple[Application, ...]:
    return tuple(_application(rng, of) for _ in range(_one_of(rng, of.count)))


def _application(rng: np.random.Generator, of: ApplicationsDrawn) -> Application:
    size = _size(rng, of)
    stages = _one_of(rng, of.stages)
    if stages == 1:
        return Application(stages=((Resource.CPU, size),))
    io_share = _between(rng, of.io_share)
    io_s = io_share * size.mean_s / of.io_speed
    cpu_s = (1.0 - io_share) * size.mean_s / (stages // 2 + stages % 2)
    parts = {Resource.CPU: cpu_s, Resource.IO: io_s}
    order = (Resource.CPU, Resource.IO, Resource.CPU)[:stages]
    return Application(
        stages=tuple((part, size.model_copy(update={"mean_s": parts[part]})) for part in order),
        together=bool(rng.random() < of.together),
    )


def _size(rng: np.random.Generator, of: ApplicationsDrawn) -> Size:
    mean_s = _log_between(rng, of.log_mean_s)
    law = _one_of(rng, of.laws)
    if law == "pages":
        return Size(
            mean_s=mean_s,
            heavy_share=_between(rng, of.heavy_share),
            heavy_ratio=_between(rng, of.heavy_ratio),
        )
    if law in (Law.EXPONENTIAL, Law.FIXED):
        return Size(mean_s=mean_s, law=law)
    return Size(mean_s=mean_s, law=law, cv=_log_between(rng, of.log_cv))


def _arrivals(
    rng: np.random.Generator, of: ArrivalsDrawn, load: float, duration_s: float
) -> Arrivals:
    kind = _one_of(rng, of.kinds)
    if kind == "bursts":
        return Arrivals(
            load=0.85 * load,
            burst_ratio=_between(rng, of.bursts.ratio),
            burst_s=_between(rng, of.bursts.burst_s),
            calm_s=_between(rng, of.bursts.calm_s),
        )
    if kind == "ramp":
        low, high = _between(rng, of.ramp.low), _between(rng, of.ramp.high)
        shape = ((0.0, low), (0.6, high), (0.75, high), (1.0, low))
        return Arrivals(
            load=0.9 * load, profile=tuple((share * duration_s, factor) for share, factor in shape)
        )
    return Arrivals(load=load)


def _events(
    rng: np.random.Generator, of: EventsDrawn, count: int, duration_s: float
) -> tuple[Event, ...]:
    kind = _one_of(rng, of.kinds)
    if kind == "none":
        return ()
    if kind == "restless":
        struck = rng.choice(count, size=max(1, count // 2), replace=False)
        events = _restless(rng, of, struck.tolist(), duration_s)
    else:
        struck = rng.choice(count, size=max(1, round(of.servers * count)), replace=False)
        events = [event for server in struck for event in _once(rng, of, int(server), duration_s)]
    return tuple(sorted(events, key=lambda event: event.at_s))


def _once(
    rng: np.random.Generator, of: EventsDrawn, server: int, duration_s: float
) -> tuple[Event, Event]:
    first_s, second_s = (np.sort(rng.uniform(0.2, 0.95, 2)) * duration_s).tolist()
    match _one_of(rng, of.happening):
        case "speed":
            factor = _log_between(rng, of.log_factor)
            return (
                Event(at_s=first_s, server=server, kind="speed", factor=factor),
                Event(at_s=second_s, server=server, kind="speed", factor=1.0),
            )
        case "failure":
            return (
                Event(at_s=first_s, server=server, kind="fail"),
                Event(at_s=second_s, server=server, kind="recover"),
            )
        case "removal":
            return (
                Event(at_s=first_s, server=server, kind="remove"),
                Event(at_s=second_s, server=server, kind="add"),
            )


def _restless(
    rng: np.random.Generator, of: EventsDrawn, struck: list[int], duration_s: float
) -> list[Event]:
    """Every now and then one of them gets another speed, or its own again."""
    every_s = _log_between(rng, of.log_every_s)
    changes = int(rng.poisson(duration_s / every_s))
    events: list[Event] = []
    for at_s in rng.uniform(0.0, duration_s, changes).tolist():
        factor = 1.0 if rng.random() < 0.5 else _log_between(rng, of.log_factor)
        server = int(rng.choice(struck))
        events.append(Event(at_s=at_s, server=server, kind="speed", factor=factor))
    return events
