"""The other balancers of the same servers: where they are, and how they are told.

Lives here: the keys of `peers`. Never here: telling (`lbd.peers`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from config.address import Address, is_literal
from config.paths import FilePath
from config.section import Section

MAX_PEERS = 32


def _peer(value: object) -> Address:
    if isinstance(value, Address):
        return value
    try:
        address = Address.parse(value) if isinstance(value, str) else None
    except ValueError as error:
        raise ValueError(f"host:port or [v6]:port; {error}") from None
    if address is None or address.kind != "tcp":
        raise ValueError("host:port or [v6]:port, as text; it is UDP without saying so")
    return address


PeerAddress = Annotated[
    Address, PlainValidator(_peer), PlainSerializer(str), WithJsonSchema({"type": "string"})
]


class Peers(Section):
    """Balancers before the same servers, which tell each other how many flows each has there."""

    listen: PeerAddress = Field(
        description=(
            "Where this balancer hears the others, and what it tells them from: host:port or "
            "[v6]:port, UDP."
        )
    )
    members: Annotated[tuple[PeerAddress, ...], Field(strict=False)] = Field(
        min_length=1,
        description=(
            "Where the others listen; its own address among them is passed over, so that all can "
            f"share one file. A name may stand for several; at most {MAX_PEERS} in all."
        ),
    )
    key_file: FilePath | None = Field(
        default=None,
        description=(
            "The file with the secret that all members share, at least 16 bytes, relative to this "
            "file's folder; null to believe whoever sends from a member's address."
        ),
    )
    every_ms: int = Field(
        default=20,
        ge=5,
        le=1000,
        description="How often the others are told, in milliseconds.",
    )
    forget_ms: int = Field(
        default=200,
        validate_default=True,
        ge=20,
        le=10_000,
        description=(
            "After how much silence a balancer's flows count no more, in milliseconds; at least "
            "twice every_ms."
        ),
    )

    @field_validator("members")
    @classmethod
    def _fit_together(
        cls, members: tuple[Address, ...], info: ValidationInfo
    ) -> tuple[Address, ...]:
        listen = info.data.get("listen")  # missing when it is itself invalid
        versions = {ipaddress.ip_address(a.host).version for a in members if is_literal(a.host)}
        if listen is not None and is_literal(listen.host):
            versions.add(ipaddress.ip_address(listen.host).version)
        if len(versions) > 1:
            raise ValueError("addresses of one family, that of listen")
        if len(set(members)) < len(members):
            raise ValueError("each address once")
        if len(members) > MAX_PEERS:
            raise ValueError(f"at most {MAX_PEERS} addresses")
        return members

    @field_validator("forget_ms")
    @classmethod
    def _outlasts_a_loss(cls, forget_ms: int, info: ValidationInfo) -> int:
        every_ms = info.data.get("every_ms")  # missing when it is itself invalid
        if every_ms is not None and forget_ms < 2 * every_ms:
            raise ValueError(f"at least twice every_ms, which is {every_ms}")
        return forget_ms
