"""The runtime API: where it listens, and whom it obeys.

Lives here: the keys of `api`. Never here: the API itself (`lbd.api`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from config.address import Address
from config.section import Section

GROUP_PATTERN = r"^[a-z_][a-z0-9_-]{0,31}$"


def _unix_address(value: object) -> Address:
    try:
        address = value if isinstance(value, Address) else Address.parse(str(value))
    except ValueError as error:
        raise ValueError(f"unix:/path; {error}") from None
    if address.kind != "unix":
        raise ValueError("unix:/path")
    return address


UnixAddress = Annotated[
    Address,
    PlainValidator(_unix_address),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
]


class Api(Section):
    """HTTP on a unix socket of mode 0660; `lbctl` speaks it."""

    listen: UnixAddress = Field(description="Where it listens, unix:/path.")
    group: str | None = Field(
        default=None,
        pattern=GROUP_PATTERN,
        description="The group that may connect, and read; null for the daemon's own.",
    )
    operators: str | None = Field(
        default=None,
        pattern=GROUP_PATTERN,
        description=(
            "The group whose members may also change things, of those that may connect; root and "
            "the daemon's own user always may."
        ),
    )
