"""What is logged, and where.

Lives here: the keys of `log` and `services[].flow_log`. Never here: writing (`lbd.logs`).
"""

from __future__ import annotations

from string import Formatter
from typing import Literal

from pydantic import Field, field_validator

from config.section import Section

FLOW_FIELDS = (
    "time",
    "service",
    "backend",
    "client",
    "outcome",
    "connect_ms",
    "response_ms",
    "total_ms",
    "bytes_in",
    "bytes_out",
    "worker",
)
DEFAULT_TEMPLATE = (
    "{time} {client} {service}/{backend} {connect_ms}/{response_ms}/{total_ms} "
    "{bytes_in}/{bytes_out} {outcome}"
)


class Log(Section):
    """Where events and flows are written. Events are always written."""

    file: str | None = Field(
        default=None,
        min_length=1,
        pattern=r"^/[^\x00-\x1f]*[^/\x00-\x1f]$",
        description=(
            "An absolute path, opened again at USR1; null for standard error, with the journal's "
            "priorities where that is what reads it."
        ),
    )
    format: Literal["text", "json"] = Field(default="text", description="Of events.")
    pending_lines: int = Field(
        default=10_000,
        ge=100,
        le=1_000_000,
        description=(
            "How many lines may wait in a process for a slow disk or reader; what comes on top is "
            "dropped and counted."
        ),
    )


class FlowLog(Section):
    """A line a flow, when it ends."""

    sample: float = Field(
        default=1.0, ge=0, le=1, description="The share of the flows that are logged."
    )
    failures: bool = Field(
        default=True,
        description="Whether flows that did not complete are logged whatever the sample.",
    )
    format: Literal["text", "json"] = Field(
        default="text", description="json: all fields, an object a line."
    )
    template: str = Field(
        default=DEFAULT_TEMPLATE,
        min_length=1,
        max_length=1000,
        description=f"The line as text, of the fields {', '.join(FLOW_FIELDS)}, in braces.",
    )

    @field_validator("template")
    @classmethod
    def _fields_are_known(cls, template: str) -> str:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"text with fields in braces; {error}") from None
        for _, name, form, conversion in parts:
            if name is not None and (name not in FLOW_FIELDS or form or conversion):
                raise ValueError(f"plain fields of {', '.join(FLOW_FIELDS)}")
        if not template.isprintable():
            raise ValueError("printable text, on one line")
        return template
