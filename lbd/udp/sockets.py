"""UDP sockets: bound for a service, and the address that a client had sent to.

Lives here: bind, packet information (ip(7), RFC 3542). Never here: sessions.

On a machine with several addresses an answer must leave from the one that was asked, or the client
drops it. A socket that is bound to one address does so by itself; one that is bound to all is told
the address with each datagram and tells it back.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any, Final

from config.address import Address
from lbd.sockets import ListenError, resolve, v6only

RECEIVE_BYTES: Final = 4 << 20
"""Asked for, to outlast a burst while flows have their turn; net.core.rmem_max bounds it."""

ANCILLARY_BYTES: Final = socket.CMSG_SPACE(20)
"""Room for either kind of packet information."""

_IP_PKTINFO: Final = 8  # linux/in.h; the socket module has no name for it
_V4: Final = struct.Struct("@I4s4s")  # in_pktinfo: interface, local address, header's destination
_V6: Final = struct.Struct("@16sI")  # in6_pktinfo: address, interface

Control = list[tuple[int, int, bytes]]


def bind(address: Address, count: int) -> list[socket.socket]:
    """One socket a worker on one address, by SO_REUSEPORT.

    The kernel gives all datagrams of one client to the same of them. Raises ListenError.
    """
    try:
        family, sockaddr = resolve(address)
        # As for TCP: only a bind without SO_REUSEPORT finds another balancer of this user.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            v6only(probe)
            probe.bind(sockaddr)
        return _bind(family, sockaddr, count)
    except OSError as error:
        raise ListenError(address, error) from None


def bind_beside(address: Address, count: int) -> list[socket.socket]:
    """`count` more on an address that this process has; some clients are another's then.

    Raises ListenError.
    """
    try:
        return _bind(*resolve(address), count)
    except OSError as error:
        raise ListenError(address, error) from None


def _bind(family: int, sockaddr: Any, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            v6only(sock)
            sock.bind(sockaddr)
            tell_destination(sock)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def tell_destination(sock: socket.socket) -> None:
    """Have it tell where each datagram was sent to, if it is bound to all addresses."""
    if not bound_everywhere(sock):
        return
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def bound_everywhere(sock: socket.socket) -> bool:
    """Whether its datagrams come with packet information."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_unspecified


def answer_from(received: Control) -> bytes:
    """The local address that a datagram came to, packed as `control` wants it; b"" if unknown.

    The way back is the routing table's to choose, so no interface is named, but where the address
    means nothing without one (link-local).
    """
    for level, kind, data in received:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, local, _ = _V4.unpack(data[: _V4.size])
            return _V4.pack(0, local, b"")
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            local, interface = _V6.unpack(data[: _V6.size])
            scoped = ipaddress.IPv6Address(local).is_link_local
            return _V6.pack(local, interface if scoped else 0)
    return b""


def control(local: bytes) -> Control:
    """What makes an answer leave from the address that `answer_from` packed."""
    if not local:
        return []
    if len(local) == _V4.size:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, local)]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local)]
