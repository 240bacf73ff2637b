"""Accepts connections of one service in one worker.

Lives here: the accept queue's worker side and its back-pressure. Never here: what becomes of a
connection (`lbd.service`).
A full service, or a process out of descriptors, stops accepting; what waits stays in the kernel's
queue, refused by nobody, until there is room. Or else, where it is to shed its load, it resets the
newest.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from lbd.edge.bound import Bound
from lbd.edge.gate import Gate
from lbd.poller import READ, Poller
from lbd.relay import Relay, reset
from lbd.service import Service

Accept = Callable[[], tuple[socket.socket, Any]]

_ACCEPTS: Final = 64
"""Accepts in a row before the flows that are open have their turn."""

# Out of what accept needs: descriptors or memory. Everything else there is about one connection
# that is gone already (accept(2)), or a fault of ours.
_NO_CAPACITY: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_GONE: Final = frozenset(
    (
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    )
)


class Listener:
    """bound: how many flows fit, and what becomes of one more. gate: what stands before the
    service, if anything does. sockets: accepted from in turn."""

    def __init__(
        self,
        service: Service,
        sockets: Sequence[socket.socket],
        poller: Poller,
        bound: Bound,
        gate: Gate | None = None,
    ) -> None:
        self._service = service
        self._sockets = sockets
        self._poller = poller
        self.bound = bound
        self._max_flows = bound.max_flows
        self._accepting = False
        self._closed = False
        if gate is None:
            self._admit: Callable[[socket.socket, Any], None] = service.open
            self._occupied = service.connections
            service.on_end = self._flow_ended
        else:
            self._admit, self._occupied = gate.admit, gate.occupied
            gate.on_room = self._room
        self.resume()

    def resume(self) -> None:
        """Accept again, if there is room."""
        if not (self._accepting or self._closed) and self._occupied() < self._max_flows:
            self._accepting = True
            for sock in self._sockets:
                # Level-triggered: what is left after a round is told again.
                self._poller.watch(sock.fileno(), partial(self._on_ready, sock.accept), READ)

    def limit(self, bound: Bound) -> None:
        """Another bound from the next connection on."""
        self.bound = bound
        self._max_flows = bound.max_flows
        self.resume()

    def _stop(self) -> None:
        self._accepting = False
        for sock in self._sockets:
            self._poller.unwatch(sock.fileno())

    def _pause(self, counter: str) -> None:
        self._stop()
        self._service.block.count(counter)

    def close(self) -> None:
        """Accept no more, but for what is connected already."""
        for sock in self._sockets:
            if self._accepting:
                self._on_ready(sock.accept, READ)
        if self._accepting:
            self._stop()
        self._closed = True
        for sock in self._sockets:
            sock.close()

    def _on_ready(self, accept: Accept, events: int) -> None:
        occupied, closing = self._occupied, self._poller.closing
        admit, fd_ceiling = self._admit, self.bound.fd_ceiling
        for _ in range(_ACCEPTS):
            taken = occupied()
            if taken >= self._max_flows:
                if not self.bound.sheds:
                    self._pause("accept_paused_total")
                    return
                admit = self._shed
            elif taken + closing() // 2 >= self._max_flows:
                # Flows that ended in this batch hold their two descriptors until it is through.
                return
            try:
                client, peer = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_CAPACITY:
                    # The worker's next look after its flows resumes; accepting again at once would
                    # only spin.
                    self._pause("accept_failed_total")
                    return
                if error.errno in _GONE:
                    continue
                raise
            if client.fileno() >= fd_ceiling:
                # Whatever else has taken them: the last descriptors are not for flows.
                self._turn_away(client, "shed_descriptors_total")
                continue
            client.setblocking(False)
            admit(client, peer)

    def _shed(self, client: socket.socket, peer: object) -> None:
        self._turn_away(client, self.bound.shed_counter)

    def _turn_away(self, client: socket.socket, counter: str) -> None:
        self._service.block.count(counter)
        reset(client)
        client.close()

    def _flow_ended(self, relay: Relay) -> None:
        self._service.relays.discard(relay)
        self._service.serve_queue()
        self._room()

    def _room(self) -> None:
        if not self._accepting:
            self.resume()
