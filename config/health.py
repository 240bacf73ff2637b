"""How the balancer finds out which backends are fit for use, and how one comes back.

Lives here: the keys of `services[].health`. Never here: how a check is made (`lbd.health`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from config.connecting import MAX_WAIT_MS
from config.section import MAX_DURATION_S, Section


class Probe(Section):
    """What active checks and feedback have in common: an exchange with each backend in turn."""

    interval_ms: int = Field(
        default=2000, ge=10, le=MAX_WAIT_MS, description="From one to the next, in milliseconds."
    )
    timeout_ms: int = Field(
        default=1000,
        ge=1,
        le=MAX_WAIT_MS,
        description="How long one may take in all, in milliseconds.",
    )
    jitter: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Each interval is longer or shorter by up to this share, at random.",
    )
    source: str | None = Field(
        default=None, description="The local IP address to connect from; null for the kernel's."
    )
    send: str = Field(
        default="", max_length=4096, description="Text sent first, after the connection stands."
    )

    @field_validator("source")
    @classmethod
    def _is_an_address(cls, source: str | None) -> str | None:
        if source is None:
            return None
        try:
            return str(ipaddress.ip_address(source))
        except ValueError:
            raise ValueError("an IPv4 or IPv6 address, or null") from None


class Check(Probe):
    """Active checks: the supervisor tries every backend, once for all workers."""

    kind: Literal["tcp", "expect", "http"] = Field(
        default="tcp",
        description=(
            "What is tried: tcp: a connection; expect: `send`, then `expect` in the answer; "
            "http: a GET whose status is in range."
        ),
    )
    fast_ms: int = Field(
        default=500,
        ge=10,
        le=MAX_WAIT_MS,
        description=(
            "The interval while the verdict is about to change, in milliseconds; no longer than "
            "interval_ms counts."
        ),
    )
    rise: int = Field(
        default=2, ge=1, le=100, description="Successes in a row that bring a backend up."
    )
    fall: int = Field(
        default=3, ge=1, le=100, description="Failures in a row that take a backend down."
    )
    port: int | None = Field(
        default=None, ge=1, le=65535, description="The port to check; null for the backend's own."
    )
    proxy: Literal[1, 2] | None = Field(
        default=None,
        description=(
            "The version of the PROXY header that a check begins with, for backends that demand "
            "one: UNKNOWN or LOCAL, since it speaks for no client; null for none."
        ),
    )
    expect: str = Field(
        default="",
        max_length=1024,
        description="A regular expression that the first 4 KiB of the answer must contain.",
    )
    path: str = Field(default="/", pattern=r"^/[!-~]{0,1023}$", description="The path of the GET.")
    host: str = Field(
        default="", pattern=r"^[!-~]{0,255}$", description="The Host header of the GET."
    )
    status_min: int = Field(
        default=200, ge=100, le=599, description="The lowest status that is up."
    )
    status_max: int = Field(
        default=399, ge=100, le=599, description="The highest status that is up."
    )

    @field_validator("expect")
    @classmethod
    def _is_an_expression(cls, expect: str) -> str:
        try:
            re.compile(expect.encode())
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        return expect

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind == "expect" and not self.expect:
            raise ValueError("the key expect in it, for its kind is expect")
        if self.status_min > self.status_max:
            raise ValueError("a status_min that is not above status_max")
        return self


class Feedback(Probe):
    """What servers say of themselves, in HAProxy's agent-check protocol."""

    port: int = Field(ge=1, le=65535, description="Where the agent on each backend's host listens.")


class Passive(Section):
    """What flows tell: a backend that fails one after the other is left out for a while."""

    failures: int = Field(
        default=5,
        ge=1,
        le=10_000,
        description=(
            "Flows failed in a row, without one answered in between, that eject it: refused, "
            "reset or closed before the first byte, timed out."
        ),
    )
    eject_s: float = Field(
        default=5.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long the first ejection lasts, in seconds; the next twice as long.",
    )
    eject_max_s: float = Field(
        default=300.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long an ejection lasts at most, in seconds.",
    )
    max_ejected: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="The share of the service's backends that may be ejected at once.",
    )


class SlowStart(Section):
    """How a backend that comes back, or comes new, gets its share of flows."""

    window_s: float = Field(
        default=30.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long until it has its full share, in seconds.",
    )
    aggression: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="The curve, time ** (1 / aggression): 1 is a line, more starts faster.",
    )
    floor: float = Field(
        default=0.1, gt=0, le=1, description="The share it has from the first moment."
    )


class Health(Section):
    """Which backends are fit for use."""

    check: Check | None = Field(default=None, description="Active checks; null for none.")
    passive: Passive | None = Field(
        default=Passive(), description="Ejection by what flows tell; null for none."
    )
    feedback: Feedback | None = Field(
        default=None, description="Agents on the servers that are asked; null for none."
    )
    slow_start: SlowStart | None = Field(
        default=None, description="A gentle return; null for the full share at once."
    )
    panic_below: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description=(
            "While a smaller share of the backends than this is healthy, all are used but those "
            "in drain or maintenance; 0 for never."
        ),
    )
    on_down: Literal["keep", "reset"] = Field(
        default="keep",
        description="What becomes of the flows of a backend that active checks find down.",
    )
