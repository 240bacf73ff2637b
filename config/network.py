"""A set of addresses, as `10.0.0.0/8`, `2001:db8::/32`, a single address, or `unix`.

Lives here: the text form and membership. Never here: what is permitted to whom.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

FORM = "a network such as 10.0.0.0/8 or 2001:db8::/32, an address, or unix"
_Net = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Network:
    """`net` is None for the peers of a Unix socket. `Network.parse(str(n)) == n`."""

    net: _Net | None

    @classmethod
    def parse(cls, text: str) -> Network:
        """Raises ValueError saying what is wrong."""
        if text == "unix":
            return cls(None)
        try:
            return cls(ipaddress.ip_network(text))
        except ValueError as error:
            if "host bits" in str(error):
                raise ValueError(f"{ipaddress.ip_network(text, strict=False)} is meant") from None
            raise ValueError("this is none") from None

    def __str__(self) -> str:
        return "unix" if self.net is None else str(self.net)
