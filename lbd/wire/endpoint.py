"""One end of a connection as a protocol tells it.

Lives here: family, host and port, and the binary form of an address. Never here: name resolution.
"""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291, 2.5.5.2


class Endpoint(NamedTuple):
    """`host` is a literal address, or of AF_UNIX the path, which may be empty; its `port` is 0."""

    family: int
    host: str
    port: int

    @classmethod
    def of(cls, family: int, sockaddr: Any) -> Endpoint:
        """From what accept(2) and getsockname(2) return."""
        if family == socket.AF_UNIX:
            path = sockaddr if isinstance(sockaddr, str) else ""
            return cls(family, path, 0)
        host, _, _ = sockaddr[0].partition("%")  # a link-local address names its interface
        return cls(family, host, sockaddr[1])

    @property
    def packed(self) -> bytes:
        """4 or 16 bytes of address, network order."""
        return socket.inet_pton(self.family, self.host)


def same_family(source: Endpoint, destination: Endpoint) -> tuple[Endpoint, Endpoint]:
    """Both in one family: where they differ, the IPv4 one as IPv4-mapped IPv6 (RFC 4291)."""
    if source.family == destination.family:
        return source, destination
    return _mapped(source), _mapped(destination)


def _mapped(end: Endpoint) -> Endpoint:
    if end.family == socket.AF_INET6:
        return end
    host = socket.inet_ntop(socket.AF_INET6, _MAPPED + end.packed)
    return Endpoint(socket.AF_INET6, host, end.port)
