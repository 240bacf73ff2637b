"""The configuration of names: which backends stand for several addresses, and who is asked.

Lives here: those sections. Never here: looking anything up (`lbd.names`).
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from config.address import Address
from config.relations import DEFAULT_ADDRESSES
from config.section import MAX_DURATION_S, Section

MAX_NAME_CHARS = 28
"""Of a backend that a name is looked up for: the others of its addresses get a number behind it."""


def _nameserver(value: object) -> Address:
    if isinstance(value, Address):
        return value
    try:
        address = Address.parse(value) if isinstance(value, str) else None
        if address is not None and address.kind == "tcp":
            ipaddress.ip_address(address.host)
            return address
    except ValueError:
        pass
    raise ValueError("an IP address and a port, such as 192.0.2.1:53 or [2001:db8::1]:53")


Nameserver = Annotated[
    Address,
    PlainValidator(_nameserver),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
]


class Dns(Section):
    """A name that is looked up again and again; every address found is a backend."""

    kind: Literal["address", "srv"] = Field(
        default="address",
        description=(
            "address: A and AAAA records; srv: SRV records, which tell ports and weights too: of "
            "the lowest priority alone, and the port of the backend's address is of no account."
        ),
    )
    family: Literal["either", "ipv4", "ipv6", "both"] = Field(
        default="either",
        description=(
            "Which addresses count; either: the IPv4 ones, or where there are none the IPv6 ones, "
            "so that a server with one of each is not taken for two."
        ),
    )
    max: int = Field(
        default=DEFAULT_ADDRESSES,
        ge=1,
        le=256,
        description="How many addresses are used at most; each takes one of the service's slots.",
    )
    every_s: float = Field(
        default=30.0,
        ge=1,
        le=MAX_DURATION_S,
        description=(
            "The longest time between two look-ups, in seconds; a shorter time to live is heeded, "
            "down to a second."
        ),
    )


class Resolver(Section):
    """Who is asked for the names of backends that have a dns section."""

    nameservers: Annotated[tuple[Nameserver, ...], Field(strict=False)] = Field(
        default=(), description="Address and port of each; none to ask whom the system asks."
    )
    timeout_ms: int = Field(
        default=2000,
        gt=0,
        le=60_000,
        description="How long the first try of a question may take, in milliseconds.",
    )
    tries: int = Field(
        default=3, ge=1, le=10, description="How often a nameserver is asked, with longer patience."
    )
