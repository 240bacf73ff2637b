"""An edge-triggered epoll inside the uvloop loop: readiness of many sockets, one callback a batch.

Lives here: watching descriptors. Never here: what is done when one is ready.

The loop watches the inner epoll's descriptor as if it were a socket. One wake-up of the loop then
serves a whole batch of sockets, each by one Python call, and a socket costs one epoll_ctl in its
life: measured at 1.1 times HAProxy's CPU a connection, where transports cost 1.5.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
HANGUP: Final = select.EPOLLHUP | select.EPOLLRDHUP
ERROR: Final = select.EPOLLERR
STREAM: Final = READ | WRITE | select.EPOLLRDHUP | select.EPOLLET

Handler = Callable[[int], None]

_BATCH: Final = 256
# A busy worker comes round with more events ready: taking them at once saves the loop's own turn.
# Bounded, so that timers and signals have theirs.
_ROUNDS: Final = 8


def _ignore(events: int) -> None:
    """Of a descriptor that was closed earlier in the batch."""


class Poller:
    """Calls `handler(events)` of a descriptor when it becomes ready."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._handlers: list[Handler] = []  # by descriptor
        self._again: list[Callable[[], None]] = []
        self._closing: list[socket.socket] = []
        loop.add_reader(self._epoll.fileno(), self.serve)

    def watch(self, fd: int, handler: Handler, events: int = STREAM) -> None:
        handlers = self._handlers
        if fd >= len(handlers):
            handlers.extend([_ignore] * (fd + 1 - len(handlers)))
        handlers[fd] = handler
        self._epoll.register(fd, events)

    def rehandle(self, fd: int, handler: Handler) -> None:
        """Another handler for a descriptor that is watched already."""
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        self._handlers[fd] = _ignore
        self._epoll.unregister(fd)

    def close_socket(self, sock: socket.socket) -> None:
        """Forget and close, but not before this batch is through: a descriptor number that were
        used again within it would get its predecessor's events."""
        fd = sock.fileno()
        if fd < len(self._handlers):
            self._handlers[fd] = _ignore
        self._closing.append(sock)
        if len(self._closing) == 1:
            self._loop.call_soon(self._close_sockets)

    def closing(self) -> int:
        """Sockets still to be closed after this batch: their descriptors are in use until then."""
        return len(self._closing)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, callback)

    def call_again(self, callback: Callable[[], None]) -> None:
        """Once more after this batch: for who stopped of his own accord, not for lack of data."""
        self._again.append(callback)
        if len(self._again) == 1:
            self._loop.call_soon(self.serve)

    def serve(self) -> None:
        """Handle what is ready by now.

        To be called by timers that judge: after a standstill of the process they ring before the
        events that waited meanwhile are seen, and those may speak for who is judged.
        """
        poll, handlers = self._epoll.poll, self._handlers
        for _ in range(_ROUNDS):
            ready = poll(0, _BATCH)
            if not ready and not self._again:
                break
            for fd, events in ready:
                handlers[fd](events)
            if self._again:
                again, self._again = self._again, []
                for callback in again:
                    callback()
            if self._closing:
                self._close_sockets()

    def _close_sockets(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._close_sockets()
        self._epoll.close()
