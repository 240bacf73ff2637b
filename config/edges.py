"""The configuration of a service's edges: who may come in, what is told, where flows go out.

Lives here: the sections for PROXY headers, affinity, limits, addresses; checked when made.
Never here: what a service is (`schema`); rules across services (`fronts`).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from config.network import FORM, Network
from config.section import MAX_DURATION_S, Section

EDGES = ("proxy_in", "proxy_out", "sni", "stick", "limits")
"""A service's keys that say what stands between accept and flow."""

_SERVER_NAME = re.compile(r"(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{FORM}, as text")
    try:
        return Network.parse(value)
    except ValueError as error:
        raise ValueError(f"{FORM}; {error}") from None


def _server_name(value: object) -> str:
    if not isinstance(value, str) or len(value) > 253 or not _SERVER_NAME.fullmatch(value):
        raise ValueError("a host name in lower case, or *. and the end of one, as text")
    return value


def _interface(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _INTERFACE.fullmatch(value)):
        raise ValueError("the name of a network interface, at most 15 characters")
    return value


def _ip(value: object) -> str | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and not (found := ipaddress.ip_address(value)).is_unspecified:
            return str(found)
    except ValueError:
        pass
    raise ValueError("an IPv4 or IPv6 address of this machine, as text, or null")


_Text = (PlainSerializer(str), WithJsonSchema({"type": "string"}))
NetworkText = Annotated[Network, PlainValidator(_network), *_Text]
ServerName = Annotated[str, PlainValidator(_server_name), WithJsonSchema({"type": "string"})]
_OrNull = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]})
IpText = Annotated[str | None, PlainValidator(_ip), _OrNull]
Interface = Annotated[str | None, PlainValidator(_interface), _OrNull]


class ProxyIn(Section):
    """PROXY headers that clients of this service send, version 1 or 2."""

    trust: Annotated[tuple[NetworkText, ...], Field(strict=False)] = Field(
        min_length=1,
        description=(
            "Who must begin with a PROXY header, and is believed: a list of networks; unix for "
            "the peers of a Unix socket."
        ),
    )
    others: Literal["refuse", "plain"] = Field(
        default="refuse",
        description=(
            "Connections from elsewhere: refuse them, or take them as plain, without a header."
        ),
    )


Vector = Literal["authority", "alpn", "unique_id", "received", "crc32c"]


class ProxyOut(Section):
    """The PROXY header that this service's backends get."""

    version: Literal[1, 2] = Field(default=2, description="1: a line of text; 2: binary.")
    tlvs: Annotated[tuple[Vector, ...], Field(strict=False)] = Field(
        default=(),
        validate_default=True,
        description=(
            "What version 2 adds: authority and alpn (from the TLS ClientHello, which is waited "
            "for), unique_id (16 random bytes a flow), received (the vectors of the header that "
            "came in), crc32c."
        ),
    )

    @field_validator("tlvs")
    @classmethod
    def _version_2_has_them(cls, tlvs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if tlvs and info.data.get("version") == 1:
            raise ValueError("an empty list, for version 1 has no vectors")
        return tlvs


class Stick(Section):
    """Clients that stay with the backend they had."""

    sources: int = Field(
        default=65_536,
        ge=8,
        le=1_048_576,
        description="How many sources are remembered; beyond, the longest unseen are forgotten.",
    )
    expiry_s: float = Field(
        default=1800.0,
        gt=0,
        le=MAX_DURATION_S,
        description="How long a source is remembered after its last flow, in seconds.",
    )
    ipv4_prefix: int = Field(
        default=32, ge=1, le=32, description="How many bits of an IPv4 address make a source."
    )
    ipv6_prefix: int = Field(
        default=64, ge=1, le=128, description="How many bits of an IPv6 address make a source."
    )


class PerSource(Section):
    """What one source network may do, counted over all workers."""

    connections: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="How many connections at once; null for no limit.",
    )
    new: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="How many new connections in a sliding window; null for no limit.",
    )
    window_s: float = Field(
        default=1.0, gt=0, le=86_400, description="The length of that window, in seconds."
    )
    ipv4_prefix: int = Field(
        default=32, ge=1, le=32, description="How many bits of an IPv4 address make a source."
    )
    ipv6_prefix: int = Field(
        default=64, ge=1, le=128, description="How many bits of an IPv6 address make a source."
    )
    sources: int = Field(
        default=65_536,
        ge=8,
        le=1_048_576,
        description="How many sources are counted; what finds no room is let in, and counted.",
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.connections is None and self.new is None:
            raise ValueError("connections or new in it, or both")
        return self


class SlowClient(Section):
    """Clients that keep their request coming drop by drop, before any answer."""

    after_s: float = Field(
        default=10.0,
        gt=0,
        le=MAX_DURATION_S,
        description="From this age on, in seconds, a flow without an answer is looked at.",
    )
    bytes_per_s: float = Field(
        default=100.0,
        gt=0,
        le=1e9,
        description="A client still sending, but less than this since it came, is ended.",
    )


class Limits(Section):
    """What a service lets in, the same for all services that share a listen address."""

    overload: Literal["wait", "shed"] = Field(
        default="wait",
        description=(
            "A full service, or a process out of descriptors: new connections wait in the "
            "kernel's queue, or the newest are reset."
        ),
    )
    per_source: PerSource | None = Field(
        default=None, description="Limits a source network; null for none."
    )
    preface_ms: int = Field(
        default=3000,
        gt=0,
        le=600_000,
        description="How long a PROXY header and a ClientHello may take, in milliseconds.",
    )
    first_byte_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DURATION_S,
        description=(
            "How long neither side of a flow may have said anything, in seconds; null for no "
            "limit but timeouts.idle_s."
        ),
    )
    slow_client: SlowClient | None = Field(
        default=None, description="When a client is too slow; null for never."
    )


class Source(Section):
    """Where connections to backends come from."""

    address: IpText = Field(
        default=None, description="The address they are made from; null for the kernel's choice."
    )
    interface: Interface = Field(
        default=None, description="The interface they leave by; null for the kernel's choice."
    )
