"""Addresses as the kernel wants them, and listening sockets.

Lives here: the mapping of a configured address to family and sockaddr, bind and listen. Never here:
accepting or connecting.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any, Final

from config.address import Address

BACKLOG: Final = 4096

OWN_LIMITS: Final = frozenset(
    (errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
)
"""What this machine lacks for a connection: no fault of whom it was to."""


class ListenError(Exception):
    """An address cannot be listened on; the message names it and the reason.

    busy: another process listens there, which may be about to stop.
    """

    def __init__(self, address: Address, error: OSError) -> None:
        super().__init__(f"cannot listen on {address}: {_reason(error, address)}")
        self.busy = error.errno == errno.EADDRINUSE


def resolve(address: Address) -> tuple[int, Any]:
    """(family, sockaddr) to connect to or bind. Raises OSError where a name has no address."""
    if address.kind == "unix":
        return socket.AF_UNIX, address.path
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"cannot resolve {address.host}: {error.strerror}") from None
    family, _, _, _, sockaddr = found[0]
    return family, sockaddr


def peer_name(client: socket.socket) -> str:
    """The client's address; `unix` for what has none, `gone` where it has left already."""
    try:
        peer = client.getpeername()
    except OSError:
        return "gone"
    return sockaddr_name(peer)


def sockaddr_name(peer: object) -> str:
    """An address as it is written; `unix` for what has none."""
    if not isinstance(peer, tuple):
        return "unix"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


def listen(address: Address, count: int) -> list[socket.socket]:
    """One listening socket a worker on one address.

    TCP: `count` sockets with SO_REUSEPORT, over which the kernel spreads connections; each has an
    accept queue of its own, which lives as long as the socket. Unix: one socket, the same for all.
    Raises ListenError.
    """
    try:
        family, sockaddr = resolve(address)
        if family == socket.AF_UNIX:
            return [_listen_unix(address.path)] * count
        return _listen_alone(family, sockaddr, count)
    except OSError as error:
        raise ListenError(address, error) from None


def listen_beside(address: Address, count: int) -> list[socket.socket]:
    """`count` more TCP sockets on an address that this process listens on. Raises ListenError."""
    try:
        return _listen_tcp(*resolve(address), count)
    except OSError as error:
        raise ListenError(address, error) from None


def _listen_alone(family: int, sockaddr: Any, count: int) -> list[socket.socket]:
    # SO_REUSEPORT would let this bind beside another balancer of the same user and share its
    # connections; a bind without it finds that out.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        v6only(probe)
        probe.bind(sockaddr)
    return _listen_tcp(family, sockaddr, count)


def _listen_tcp(family: int, sockaddr: Any, count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Accepted sockets inherit it from here: no call of their own.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            v6only(sock)
            sock.bind(sockaddr)
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def v6only(sock: socket.socket) -> None:
    """An IPv6 socket takes no IPv4: each family has sockets of its own."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _listen_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        _remove_dead_socket(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _remove_dead_socket(path: str) -> None:
    """A socket file that nobody listens on is a dead predecessor's; anything else stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return  # alive, and its accept queue is full


def _reason(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use by another process"
    if error.errno in (errno.EACCES, errno.EPERM):
        what = "its directory" if address.kind == "unix" else f"port {address.port}"
        return f"the right to use {what} is missing"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return error.strerror or str(error)
