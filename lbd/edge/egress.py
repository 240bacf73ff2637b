"""Where connections to backends come from: a source address, an interface.

Lives here: binding a socket before it connects. Never here: connecting (`lbd.relay`).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

from config.edges import Source

# linux/in.h: bind(2) takes no port yet, connect(2) does, one that is free for that destination.
# Without it, all destinations together would share the machine's ephemeral ports.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


class SourceError(OSError):
    """Connections cannot be made from there; the message says from where, and why."""


class Egress:
    """Called with a socket of any family that is to be connected."""

    def __init__(self, source: Source) -> None:
        self._interface = source.interface.encode() if source.interface else b""
        self._address = source.address

    def __call__(self, sock: socket.socket) -> None:
        """Raises OSError EADDRNOTAVAIL: whatever is in the way is here, not at the backend."""
        if sock.family == socket.AF_UNIX:
            return
        try:
            self._bind(sock)
        except OSError as error:
            raise OSError(errno.EADDRNOTAVAIL, error.strerror) from None

    def _bind(self, sock: socket.socket) -> None:
        if self._interface:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface)
        if self._address is not None:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._address, 0))


def egress(source: Source) -> Egress | None:
    """None where the kernel chooses all."""
    return Egress(source) if source.address or source.interface else None


def prove(source: Source) -> None:
    """Raises SourceError where no connection could be made from there."""
    bind = egress(source)
    if bind is None:
        return
    try:
        with socket.socket(_family(source.address), socket.SOCK_STREAM) as sock:
            bind(sock)
    except OSError as error:
        at = " by ".join(filter(None, (source.address, source.interface)))
        raise SourceError(f"cannot connect from {at}: {error.strerror}") from None


def _family(address: str | None) -> int:
    if address is None or ipaddress.ip_address(address).version == 4:
        return socket.AF_INET
    return socket.AF_INET6
