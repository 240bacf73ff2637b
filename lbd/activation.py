"""Listening sockets that a service manager opened for us, matched with the configuration.

Lives here: which service gets which. Never here: the manager's protocol (`sd.sockets`), sockets of
our own (`lbd.sockets`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from config.address import Address
from lbd.sockets import resolve
from lbd.udp.sockets import tell_destination


class ActivationError(Exception):
    """What was passed does not fit the configuration; the message says which socket and why."""


class Activation:
    """The sockets that were passed and not asked for yet."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._passed = list(sockets)
        self._taken: set[Address] = set()

    def take(self, address: Address, workers: int) -> list[socket.socket]:
        """A socket a worker if any was passed for `address`, else none.

        Fewer sockets than workers are shared in turn, and so are their accept queues. Raises
        ActivationError if there are more: nobody would accept from the rest.
        """
        family, sockaddr = resolve(address)
        wanted = sockaddr if family == socket.AF_UNIX else sockaddr[:2]
        kind = socket.SOCK_DGRAM if address.kind == "udp" else socket.SOCK_STREAM
        found = [s for s in self._passed if (s.family, s.type, _name(s)) == (family, kind, wanted)]
        if not found:
            return []
        if len(found) > workers:
            raise ActivationError(
                f"{len(found)} sockets were passed for {address}, more than the {workers} workers"
            )
        for sock in found:
            self._passed.remove(sock)
            if kind == socket.SOCK_DGRAM:
                tell_destination(sock)
                continue
            if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise ActivationError(f"the socket passed for {address} does not listen")
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._taken.add(address)
        return [found[index % len(found)] for index in range(workers)]

    def holds(self, address: Address) -> bool:
        """Whether the manager listens there, also when we do not: a socket file is its own."""
        return address in self._taken

    def finish(self) -> None:
        """Raises ActivationError if there is a socket left: its clients would wait for ever."""
        if self._passed:
            names = ", ".join(str(_name(sock)) for sock in self._passed)
            raise ActivationError(f"no service listens on what was passed: {names}")


def _name(sock: socket.socket) -> object:
    name = sock.getsockname()
    return name[:2] if isinstance(name, tuple) else name
