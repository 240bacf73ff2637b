"""What is simulated, as data: servers, applications, arrivals, what changes on the way.

Lives here: the model of a scenario, and what follows from it by arithmetic.
Never here: suites of them (`suites`), random draws (`workload`), a run (`world`), policies.
Source of the defaults: App. C.1 of the Markov-potential-game paper.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from testbed.load.sizes import Law, draw

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resource(StrEnum):
    CPU = "cpu"
    IO = "io"


class Servers(Model):
    """`count` servers alike. `weight` is what somebody configured, right or wrong.

    cpus: jobs that run at full `speed` side by side. in_service: jobs that share them; the next
    `backlog` wait in order, what comes then is rejected, but for what returns from I/O. fifo: one
    job a CPU, no sharing. io_speed: of the I/O queue, which is processor sharing without a bound.
    spare: not in the service until an event adds it.
    """

    count: int = Field(ge=1, default=1)
    cpus: int = Field(ge=1, default=1)
    speed: Positive = 1.0
    io_speed: Positive = 1.0
    in_service: int = Field(ge=1, default=32)
    backlog: int = Field(ge=0, default=64)
    fifo: bool = False
    weight: Positive | None = None
    spare: bool = False

    @property
    def places(self) -> int:
        """Jobs in service at the CPU at once."""
        return self.cpus if self.fifo else self.in_service


class Size(Model):
    """Seconds of work of one stage: a law of `testbed.load.sizes`, or two classes of pages.

    heavy_share and heavy_ratio: that share of the jobs is `heavy_ratio` times as long as the rest,
    each class following the law, with the mean of all as given.
    values_s: recorded sizes to draw from, scaled to the mean.
    """

    mean_s: NotNegative
    law: Law = Law.EXPONENTIAL
    cv: NotNegative = 1.0
    heavy_share: float = Field(ge=0, lt=1, default=0.0)
    heavy_ratio: float = Field(ge=1, default=1.0)
    values_s: tuple[Positive, ...] = ()

    @model_validator(mode="after")
    def _drawable(self) -> Size:
        draw(self.law, self.mean_s, self.cv, 0, np.random.default_rng(0))
        return self


class Application(Model):
    """Stages in order. They alternate between CPU and I/O and begin at the CPU.

    together: one draw gives the total, split over the stages in proportion to their means;
    otherwise each stage is drawn by itself.
    """

    stages: tuple[tuple[Resource, Size], ...] = Field(min_length=1, max_length=5)
    share: Positive = 1.0
    together: bool = False

    @model_validator(mode="after")
    def _alternating(self) -> Application:
        expected = [Resource.CPU, Resource.IO] * 3
        for at, (resource, _) in enumerate(self.stages):
            if resource is not expected[at]:
                raise ValueError(f"stage {at + 1} must be {expected[at]}, not {resource}")
        return self

    def mean_s(self, resource: Resource) -> float:
        return sum(size.mean_s for kind, size in self.stages if kind is resource)


class Arrivals(Model):
    """When flows come. Either `load`, of the capacity at the start, or `rate_per_s`.

    profile: (time in s, factor) points of the rate, linear between them; two at one time are a
    step. burst_*: a two-state
    Markov-modulated Poisson process whose rate is `burst_ratio` times as high in bursts, with
    mean sojourns; the mean rate stays. trace: a file of `time<TAB>query` lines, repeated and
    scaled to the rate; in a suite its path begins at the suite's folder.
    """

    load: Positive | None = None
    rate_per_s: Positive | None = None
    profile: tuple[tuple[NotNegative, NotNegative], ...] = ()
    burst_ratio: float = Field(ge=1, default=1.0)
    burst_s: Positive = 1.0
    calm_s: Positive = 4.0
    trace: Path | None = None

    @field_validator("trace")
    @classmethod
    def _beside_the_suite(cls, trace: Path | None, info: ValidationInfo) -> Path | None:
        folder = (info.context or {}).get("folder")
        return trace if trace is None or folder is None else folder / trace

    @model_validator(mode="after")
    def _one_of(self) -> Arrivals:
        if (self.load is None) == (self.rate_per_s is None):
            raise ValueError("give either load or rate_per_s")
        if self.trace is not None and (self.profile or self.burst_ratio > 1.0):
            raise ValueError("a trace has its own profile and bursts")
        times = [at for at, _ in self.profile]
        if times != sorted(times):
            raise ValueError("the points of a profile must be in order of time")
        if any(times.count(at) > 2 for at in times):
            raise ValueError("a profile has more than two points at one time")
        return self


class Event(Model):
    """At `at_s`, `server` (its number in the scenario) changes.

    speed: CPU and I/O run at `factor` times their own speeds. fail: its flows are reset and new
    ones refused, which are tried elsewhere, until `recover`; balancers notice either `detect_s`
    later. add, remove: of the service, known to the balancers at once; a removed server finishes
    what it has.
    """

    at_s: NotNegative
    server: int = Field(ge=0)
    kind: Literal["speed", "fail", "recover", "add", "remove"]
    factor: Positive = 1.0


class Scenario(Model):
    """One thing to simulate. `kind` groups scenarios in tables.

    balancers: each gets a random share of the flows, equal in the mean. link_s: one-way latency
    between two nodes, uniform. timeout_s: what the client of a flow that is not served waits,
    counted as its completion time; one that is served counts with its own, however long it is.
    detect_s: from a failure or a return to the balancers' knowledge of it.
    tell_s: how often balancers tell each other their flows in progress and what was answered; None
    where they do not, as it is without `peers`.
    Flows before warmup_s are simulated and not judged.
    """

    name: str
    kind: str = "other"
    balancers: int = Field(ge=1, le=64, default=2)
    servers: tuple[Servers, ...] = Field(min_length=1)
    applications: tuple[Application, ...] = Field(min_length=1)
    arrivals: Arrivals
    events: tuple[Event, ...] = ()
    duration_s: Positive = 60.0
    warmup_s: NotNegative = 10.0
    link_s: tuple[NotNegative, NotNegative] = (1e-4, 1e-3)
    timeout_s: Positive = 40.0
    detect_s: NotNegative = 0.1
    tell_s: Positive | None = None
    clients: int = Field(ge=1, default=4096)

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        if self.warmup_s >= self.duration_s:
            raise ValueError("warmup_s must end before duration_s")
        if self.link_s[0] > self.link_s[1]:
            raise ValueError("link_s must be (least, most)")
        for event in self.events:
            if event.server >= len(self.backends):
                raise ValueError(f"an event names server {event.server} of {len(self.backends)}")
        if not any(self.mean_s(resource) for resource in Resource):
            raise ValueError("no application asks for any work")
        if self.arrivals.load is not None and all(server.spare for server in self.backends):
            raise ValueError("load is of the servers at the start, and all are spare")
        return self

    @property
    def backends(self) -> tuple[Servers, ...]:
        """One entry a server, in the order of their numbers."""
        return tuple(group for group in self.servers for _ in range(group.count))

    def mean_s(self, resource: Resource) -> float:
        """Mean work a flow asks of the resource."""
        shares = np.array([application.share for application in self.applications])
        means = np.array([application.mean_s(resource) for application in self.applications])
        return float(shares @ means / shares.sum())

    def capacity_per_s(self) -> np.ndarray:
        """(servers,) flows a second that each can finish, by its scarcer resource."""
        cpu_s, io_s = self.mean_s(Resource.CPU), self.mean_s(Resource.IO)
        return np.array(
            [
                min(
                    (server.cpus * server.speed / cpu_s) if cpu_s > 0 else np.inf,
                    (server.io_speed / io_s) if io_s > 0 else np.inf,
                )
                for server in self.backends
            ]
        )

    def rate_per_s(self) -> float:
        """Mean arrivals a second, before the profile."""
        if self.arrivals.rate_per_s is not None:
            return self.arrivals.rate_per_s
        present = np.array([not server.spare for server in self.backends])
        assert self.arrivals.load is not None
        return float(self.arrivals.load * self.capacity_per_s()[present].sum())

    def configured_weights(self) -> np.ndarray:
        """(servers,) what is configured; the true capacity where nothing is."""
        capacity = self.capacity_per_s()
        given = [server.weight for server in self.backends]
        return np.array([c if w is None else w for c, w in zip(capacity, given, strict=True)])
