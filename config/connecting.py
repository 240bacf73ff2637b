"""How hard the balancer tries to find a backend for a flow.

Lives here: the keys of `services[].retry` and `services[].queue`. Never here: how it is done.
"""

from __future__ import annotations

from pydantic import Field

from config.section import Section

MAX_WAIT_MS = 3_600_000


class Retry(Section):
    """What happens when a backend fails a flow of which it has not taken a byte yet."""

    same: int = Field(
        default=0,
        ge=0,
        le=10,
        description="How often the same backend is tried again, each time after pause_ms.",
    )
    others: int = Field(
        default=2, ge=0, le=10, description="How many other backends are tried after that."
    )
    pause_ms: int = Field(
        default=200,
        ge=0,
        le=MAX_WAIT_MS,
        description="The wait before the same backend is tried again, in milliseconds.",
    )
    budget: float = Field(
        default=0.2,
        ge=0,
        le=10,
        description="Retries at most, as a share of the flows of the last 10 s in each worker.",
    )
    budget_per_s: float = Field(
        default=10.0,
        ge=0,
        le=1_000_000,
        description="Retries a second that the budget permits besides.",
    )


class Queue(Section):
    """Where flows wait while every usable backend has its max_connections."""

    size: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="How many flows may wait, an equal part for each worker.",
    )
    timeout_ms: int = Field(
        default=5000,
        ge=1,
        le=MAX_WAIT_MS,
        description="How long a flow may wait, in milliseconds.",
    )
