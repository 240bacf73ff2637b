"""What a configuration holds: every key, its type, bounds, default and description.

Lives here: frozen models, checked when made; the reference page is generated from them.
Never here: files, lines, YAML (`load`, `document`); rules across list elements (`relations`).

A key ends in its unit. `ValueError`s of validators say what was expected, no more: `explain` adds
where and what was found.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from config.address import FORMS, Address, is_literal
from config.api import Api
from config.connecting import Queue, Retry
from config.edges import Limits, ProxyIn, ProxyOut, ServerName, Source, Stick
from config.health import Health
from config.logs import FlowLog, Log
from config.names import MAX_NAME_CHARS, Dns, Resolver
from config.paths import FilePath
from config.peers import Peers
from config.problem import dotted
from config.relations import DEFAULT_SLOTS, clashes
from config.section import MAX_DURATION_S, Section

Policy = Literal[
    "rr",
    "wrr",
    "ecmp",
    "wcmp",
    "lsq",
    "sed",
    "p2c",
    "ewma",
    "least_time",
    "hcl",
    "maglev",
    "source_hash",
]
POLICIES: tuple[str, ...] = get_args(Policy)
WEIGHTED_POLICIES: tuple[str, ...] = ("wrr", "wcmp", "sed", "p2c")
Reward = Literal["VBF", "logVBF", "VBF+logVBF", "PBF", "MS", "logMS", "CV", "Jain", "G"]

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
MAX_SLOTS = 1024


def _address(value: object) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{FORMS}, as text")
    try:
        return Address.parse(value)
    except ValueError as error:
        raise ValueError(f"{FORMS}; {error}") from None


def _tcp_address(value: object) -> Address:
    address = _address(value)
    if address.kind != "tcp":
        raise ValueError("host:port or [v6]:port")
    return address


def _destination(value: object) -> Address:
    address = _address(value)
    try:
        everywhere = ipaddress.ip_address(address.host).is_unspecified
    except ValueError:
        everywhere = False
    if everywhere:
        raise ValueError("an address to connect to; this one is for listening everywhere")
    return address


_DATAGRAMS = "the service listens on udp:host:port"


def _datagrams(info: ValidationInfo) -> bool:
    listen = info.data.get("listen")  # missing when it is itself invalid
    return listen is not None and listen.kind == "udp"


_Text = (PlainSerializer(str), WithJsonSchema({"type": "string"}))
ListenAddress = Annotated[Address, PlainValidator(_address), *_Text]
TcpAddress = Annotated[Address, PlainValidator(_tcp_address), *_Text]
BackendAddress = Annotated[Address, PlainValidator(_destination), *_Text]


class Ewma(Section):
    """The moving average of latency a backend, in flows or in time."""

    memory_flows: int | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="How many flows back the average reaches; or else give memory_s.",
    )
    memory_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_S,
        description="How many seconds back the average reaches; or else give memory_flows.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.memory_flows is None) == (self.memory_s is None):
            raise ValueError("exactly one of memory_flows and memory_s in it")
        return self


class Timeouts(Section):
    """When a flow is given up, and how long a stopping worker waits."""

    connect_ms: int = Field(
        default=5000,
        gt=0,
        le=3_600_000,
        description="How long a backend may take to accept a connection, in milliseconds.",
    )
    idle_s: float = Field(
        default=300.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long a flow may carry no byte either way, in seconds.",
    )
    total_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_S,
        description="How long a flow may last in all, in seconds; null for no limit.",
    )
    drain_s: float = Field(
        default=30.0,
        ge=0,
        le=MAX_DURATION_S,
        description="How long flows may go on after the order to stop, in seconds.",
    )


class Reservoir(Section):
    """The samples of durations that are kept for the agent, a backend and kind."""

    size: int = Field(
        default=128, ge=1, le=65536, description="How many samples a reservoir holds."
    )
    probability: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="The chance that a flow is sampled; null to sample every flow.",
    )


class Backend(Section):
    """One server behind a service."""

    name: str = Field(
        pattern=NAME_PATTERN, description="The backend's name, unique in its service."
    )
    address: BackendAddress = Field(
        description=f"Where the backend listens, {FORMS}; unique in its service."
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="The backend's configured capacity, relative to the others of its service.",
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="How many flows it takes at once, over all workers; null for no limit.",
    )
    state: Literal["ready", "drain", "maint"] = Field(
        default="ready",
        description=(
            "drain: it gets no new flows, and keeps those that are open; maint: nor checks either."
        ),
    )
    dns: Dns | None = Field(
        default=None,
        validate_default=True,
        description=(
            "Look the address's name up again and again, every address found being a backend; "
            "null to look it up once and take the first."
        ),
    )

    @field_validator("dns")
    @classmethod
    def _names_a_host(cls, dns: Dns | None, info: ValidationInfo) -> Dns | None:
        name, address = info.data.get("name"), info.data.get("address")  # missing when invalid
        if dns is None:
            return None
        if address is not None and (address.kind == "unix" or is_literal(address.host)):
            raise ValueError("null, for the address is not a host name")
        if name is not None and len(name) > MAX_NAME_CHARS:
            raise ValueError(f"null, or a backend's name of at most {MAX_NAME_CHARS} characters")
        return dns


class Service(Section):
    """One address that clients connect to, and the backends that it is spread over."""

    name: str = Field(
        pattern=NAME_PATTERN,
        description="The service's name, unique; it also names the shared-memory region.",
    )
    listen: ListenAddress = Field(
        description=f"Where clients connect, {FORMS}; unique but for sni."
    )
    policy: Policy = Field(default="sed", description="How a backend is chosen for a flow.")
    weights: Literal["agent", "static"] = Field(
        default="static",
        description=(
            "Whose weights the policy uses: the agent's, or those configured at the backends. "
            f"Only {', '.join(WEIGHTED_POLICIES)} can use the agent's."
        ),
    )
    fallback: Policy = Field(
        default="ewma",
        description="The policy that chooses while there are no fresh weights from the agent.",
    )
    ewma: Ewma = Field(
        default=Ewma(memory_flows=200),
        description="The memory of the latency average: exactly one of its keys.",
    )
    load: Literal["flows", "exchanges"] = Field(
        default="flows",
        description=(
            "What a policy's q counts. flows: those in progress; exchanges: those that are new or "
            "wait for an answer, which suits connections that are kept open."
        ),
    )
    slots: int = Field(
        default=DEFAULT_SLOTS,
        ge=1,
        le=MAX_SLOTS,
        description="How many backends the shared-memory region has room for.",
    )
    timeouts: Timeouts = Field(
        default=Timeouts(), description="When flows are given up, and how long a stop may take."
    )
    max_connections: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="How many flows the service carries at once, over all workers.",
    )
    responses: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description=(
            "Of a UDP service: how many datagrams answer one, after which a session is over; null "
            "where only timeouts.idle_s ends it."
        ),
    )
    reservoir: Reservoir = Field(default=Reservoir(), description="The samples kept for the agent.")
    proxy_in: ProxyIn | None = Field(
        default=None, description="PROXY headers from clients; null for none."
    )
    proxy_out: ProxyOut | None = Field(
        default=None, description="The PROXY header that backends get; null for none."
    )
    sni: Annotated[tuple[ServerName, ...], Field(strict=False)] = Field(
        default=(),
        description=(
            "Server names in a TLS ClientHello that choose this service, such as www.example.org "
            "or *.example.org: services may then share a listen address."
        ),
    )
    stick: Stick | None = Field(
        default=None, description="Clients stay with the backend they had; null for no."
    )
    hash_bound: float = Field(
        default=1.25,
        gt=1,
        le=100,
        description=(
            "The policy source_hash: how many times its fair share of flows a backend may have "
            "before its clients go to the next."
        ),
    )
    limits: Limits = Field(default=Limits(), description="What the service lets in.")
    source: Source = Field(default=Source(), description="Where connections to backends come from.")
    health: Health = Field(default=Health(), description="Which backends are fit for use.")
    retry: Retry = Field(
        default=Retry(), description="Further attempts where a backend cannot be connected to."
    )
    queue: Queue = Field(
        default=Queue(), description="Where flows wait for backends that are full."
    )
    flow_log: FlowLog | None = Field(
        default=None, description="A line a flow in the log; null for none."
    )
    shared_as: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description=(
            "The name under which other balancers know the service (see peers); null for its own."
        ),
    )
    backends: Annotated[tuple[Backend, ...], Field(strict=False)] = Field(
        min_length=1, description="The servers behind the service, at least one."
    )

    @field_validator("proxy_in", "proxy_out", "sni", "stick")
    @classmethod
    def _before_connections(cls, asked: object, info: ValidationInfo) -> object:
        if asked and _datagrams(info):
            raise ValueError(f"none of it, for {_DATAGRAMS}")
        return asked

    @field_validator("limits")
    @classmethod
    def _of_connections(cls, limits: Limits, info: ValidationInfo) -> Limits:
        if _datagrams(info) and (limits.per_source is not None or limits.overload == "shed"):
            raise ValueError(f"no per_source, and no overload: shed, for {_DATAGRAMS}")
        return limits

    @field_validator("health")
    @classmethod
    def _checks_connect(cls, health: Health, info: ValidationInfo) -> Health:
        if _datagrams(info) and health.check is not None and health.check.port is None:
            raise ValueError(f"a check with a port, for checks connect by TCP, and {_DATAGRAMS}")
        return health

    @field_validator("queue")
    @classmethod
    def _datagrams_do_not_wait(cls, queue: Queue, info: ValidationInfo) -> Queue:
        if _datagrams(info) and queue != Queue():
            raise ValueError(f"none, for datagrams do not wait for a backend, and {_DATAGRAMS}")
        return queue

    @field_validator("responses")
    @classmethod
    def _only_datagrams_are_counted(cls, responses: int | None, info: ValidationInfo) -> int | None:
        listen = info.data.get("listen")  # missing when it is itself invalid
        if responses is not None and listen is not None and listen.kind != "udp":
            raise ValueError("null, for the service does not listen on udp:host:port")
        return responses

    @field_validator("weights")
    @classmethod
    def _policy_uses_weights(cls, weights: str, info: ValidationInfo) -> str:
        policy = info.data.get("policy")  # missing when it is itself invalid
        if weights == "agent" and policy is not None and policy not in WEIGHTED_POLICIES:
            raise ValueError(
                f"static, for the policy {policy} ignores the agent's weights "
                f"(those that use them: {', '.join(WEIGHTED_POLICIES)})"
            )
        return weights


class Agent(Section):
    """The control plane: how it observes, learns and acts, the same for all services."""

    interval_ms: int = Field(
        default=250,
        ge=10,
        le=10_000,
        description="From one observation and weight frame to the next, in milliseconds.",
    )
    mode: Literal["learn", "frozen", "shadow"] = Field(
        default="frozen",
        description=(
            "frozen: act by the policy in checkpoint, learning nothing; learn: start from it and "
            "go on learning; shadow: only watch."
        ),
    )
    checkpoint: FilePath | None = Field(
        default=None,
        validate_default=True,
        description=(
            "The file of a trained policy, relative to this file's folder; null for the policy "
            "that comes with the agent. That one corrects the base latency: with the base none, "
            "null begins from random parameters."
        ),
    )
    save: FilePath | None = Field(
        default=None,
        description=(
            "The directory where a learning agent saves its checkpoint, relative to this file's "
            "folder; null to save nowhere."
        ),
    )
    save_every_s: float = Field(
        default=30.0,
        gt=0,
        le=MAX_DURATION_S,
        description="From one saved checkpoint to the next, in seconds.",
    )
    reward: Reward | None = Field(
        default=None,
        description=(
            "The fairness function that learning maximises; null: Jain's index where a trained "
            "policy goes on learning, VBF+logVBF where it begins with nothing."
        ),
    )
    base: Literal["latency", "none"] = Field(
        default="latency",
        description="What the learned factor multiplies: latency: 1 / mean latency; none: 1.",
    )
    max_ratio: float = Field(
        default=16.0,
        gt=1,
        le=1024,
        description="The bound on the ratio of the largest weight to the smallest.",
    )
    expiry_ms: int = Field(
        default=1000,
        validate_default=True,
        gt=0,
        le=600_000,
        description=(
            "How long a weight frame stays fresh, in milliseconds; longer than interval_ms."
        ),
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="The seed of everything random in the agent."
    )

    @field_validator("base")
    @classmethod
    def _frozen_has_a_policy(cls, base: str, info: ValidationInfo) -> str:
        # Absent where it is itself invalid, which is said already.
        unset = "checkpoint" in info.data and info.data["checkpoint"] is None
        if base == "none" and info.data.get("mode") == "frozen" and unset:
            raise ValueError("latency, or a checkpoint trained without that base")
        return base

    @field_validator("expiry_ms")
    @classmethod
    def _outlives_the_interval(cls, expiry_ms: int, info: ValidationInfo) -> int:
        interval_ms = info.data.get("interval_ms")  # missing when it is itself invalid
        if interval_ms is not None and expiry_ms <= interval_ms:
            raise ValueError(f"more than interval_ms, which is {interval_ms}")
        return expiry_ms


class Config(Section):
    """The whole file."""

    workers: int = Field(
        default=1, ge=1, le=64, description="How many processes share the listen addresses."
    )
    status_page: bool = Field(
        default=False,
        description="Whether the metrics address also serves the status page, at its root.",
    )
    metrics: TcpAddress | None = Field(
        default=None,
        validate_default=True,
        description="Where Prometheus finds the metrics, host:port or [v6]:port; null for none.",
    )
    api: Api | None = Field(
        default=None, description="The runtime API, which lbctl speaks; null for none."
    )
    peers: Peers | None = Field(
        default=None,
        description="Other balancers of the same servers, with whom queues are shared; null: none.",
    )
    log: Log = Field(default=Log(), description="Where events and flows are logged.")
    services: Annotated[tuple[Service, ...], Field(strict=False)] = Field(
        min_length=1, description="What is balanced, at least one service."
    )
    agent: Agent = Field(default=Agent(), description="The agent that sets the weights.")
    resolver: Resolver = Field(
        default=Resolver(), description="Who is asked for the names of backends with dns."
    )

    @field_validator("metrics")
    @classmethod
    def _page_has_an_address(cls, metrics: Address | None, info: ValidationInfo) -> Address | None:
        if metrics is None and info.data.get("status_page"):
            raise ValueError("host:port, for the status page is served there")
        return metrics

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        found = clashes(self.model_dump(mode="json"))
        if found:
            raise ValueError("; ".join(f"{dotted(clash.loc)}: {clash.expected}" for clash in found))
        return self
