"""Whether an address is in a set of networks, and which network an address is of.

Lives here: both questions. Never here: what the answer permits.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from config.network import Network
from lbd.wire.endpoint import Endpoint


class Networks:
    """A set of networks. One look-up a length of prefix, however many networks there are."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._unix = False
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            if network.net is None:
                self._unix = True
                continue
            shift = network.net.max_prefixlen - network.net.prefixlen
            known = self._prefixes.setdefault((network.net.version, shift), set())
            known.add(int(network.net.network_address) >> shift)

    def __contains__(self, end: Endpoint) -> bool:
        if end.family == socket.AF_UNIX:
            return self._unix
        address = ipaddress.ip_address(end.host)
        number = int(address)
        return any(
            version == address.version and number >> shift in known
            for (version, shift), known in self._prefixes.items()
        )


def network_of(end: Endpoint, ipv4_prefix: int, ipv6_prefix: int) -> bytes | None:
    """The network's bits, the same for all its addresses; None of a Unix socket's peer.

    An IPv4-mapped address counts as the IPv4 address that it is.
    """
    if end.family == socket.AF_UNIX:
        return None
    address = ipaddress.ip_address(end.host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    prefix = ipv4_prefix if address.version == 4 else ipv6_prefix
    shift = address.max_prefixlen - prefix
    return bytes((address.version, prefix)) + (int(address) >> shift << shift).to_bytes(16, "big")
