"""What the runtime API takes and gives; its OpenAPI description is made of these models.

Lives here: names, types, units, descriptions. Never here: where the values come from
(`lbd.api.report`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from config.schema import Policy


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Wish(BaseModel):
    """Keys that are not given stay as they are."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(Answer):
    error: str = Field(description="What was wrong, one problem a line.")


class Change(Answer):
    key: str = Field(description="The key's path, services and backends by their names.")
    before: Any = Field(description="Its value in the file; null where it is not there.")
    after: Any = Field(description="Its value in force; null where it is not there.")


class Changes(Answer):
    changes: list[Change]


class WorkerStatus(Answer):
    number: int
    pid: int | None = Field(description="null while there is none.")
    heartbeat_age_s: float | None


class AgentStatus(Answer):
    up: bool
    mode: str | None = Field(description="learn, frozen, shadow or paused; null without an agent.")
    order: Literal["none", "pause", "shadow"] = Field(description="What was asked of it.")
    heartbeat_age_s: float | None
    weights_in_force: int = Field(description="Workers that go by its weights.")
    steps: int
    last_step_ms: float
    reward: float | None


class ServiceStatus(Answer):
    name: str
    listen: str
    policy: str
    fallback: str
    weights: str
    backends: int
    usable: int = Field(description="Backends that may get new flows.")
    flows: int = Field(description="In progress.")
    queued: int
    max_connections: int
    accepted_total: int
    agent: AgentStatus


class Status(Answer):
    version: str
    pid: int
    uptime_s: float
    config: str = Field(description="The file.")
    level: Literal["read", "operate"] = Field(description="What you may do.")
    workers: list[WorkerStatus]
    worker_restarts_total: int
    draining_workers: int = Field(description="Of former configurations, with flows to finish.")
    changes: int = Field(description="Keys that were changed at run time.")
    services: list[ServiceStatus]


class PeerStatus(Answer):
    peer: str = Field(description="Where it listens.")
    up: bool = Field(description="It is heard, and its flows count.")
    heard_age_s: float | None = Field(description="null where it never was.")
    sent_total: int
    dropped_total: int = Field(description="Datagrams that could not be sent.")
    received_total: int
    lost_total: int = Field(description="Datagrams missing between those received.")


class PeersStatus(Answer):
    peers: list[PeerStatus] = Field(description="Empty where none are configured, too.")
    refused_total: dict[str, int] = Field(description="Datagrams not taken, by reason.")


class BackendStatus(Answer):
    name: str
    address: str
    state: str = Field(description="up, slow_start, ejected, down, drain, maint or leaving.")
    usable: bool
    weight: float = Field(description="As the policy takes it now.")
    configured_weight: float
    share: float = Field(description="Part of its fair share: slow start, its own word.")
    flows: int
    max_connections: int | None
    waiting: int = Field(description="Flows without a first byte yet.")
    sessions_total: int
    failures_total: int
    connect_ms: float | None = Field(description="Median, of all its flows.")
    response_ms: float | None = Field(description="Median, of all its flows.")
    response_p99_ms: float | None
    changed: bool = Field(description="At run time: the file says otherwise.")


class Backends(Answer):
    backends: list[BackendStatus]


class Flow(Answer):
    worker: int
    client: str
    backend: str
    state: Literal["connecting", "waiting", "answered"]
    age_s: float
    idle_s: float
    bytes_in: int
    bytes_out: int


class Flows(Answer):
    open: int = Field(description="How many there are.")
    flows: list[Flow] = Field(description="The oldest of them.")


class Score(Answer):
    backend: str
    usable: bool
    q: float = Field(description="Flows in progress, now; with other balancers'.")
    weight: float = Field(description="Now.")
    score: float | None = Field(description="Now; the least wins.")
    last_score: float | None = Field(description="As it was in the last choice.")
    chosen: bool = Field(description="By the last choice.")


class Explanation(Answer):
    worker: int
    policy: str = Field(description="That chose.")
    weights: Literal["agent", "configured"]
    backends: list[Score]


class Explanations(Answer):
    workers: list[Explanation]


class ServiceWish(Wish):
    policy: Policy | None = None
    fallback: Policy | None = None
    weights: Literal["agent", "static"] | None = None
    max_connections: int | None = None


class BackendWish(Wish):
    weight: float | None = None
    state: Literal["ready", "drain", "maint"] | None = None
    max_connections: int | None = Field(default=None, description="0 for no limit.")
    deadline_s: float | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="With drain or maint: when flows that are still open are ended.",
    )


class NewBackend(Wish):
    name: str
    address: str
    weight: float = 1.0
    max_connections: int | None = None
    state: Literal["ready", "drain", "maint"] = "ready"


class AgentWish(Wish):
    order: Literal["pause", "resume", "shadow"]
