"""One connection of the load generator, and one request's way through it.

Lives here: the request's record and the protocol that fills it.
Never here: when to send or how many connections there are (`generator`).
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Protocol, cast

from testbed.load.response import ResponseReader
from testbed.load.result import Outcome

# What the generator's own machine lacks, as against what the target did.
_OWN_LIMITS = {
    errno.EADDRNOTAVAIL,
    errno.EAGAIN,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOMEM,
}
_RESETS = {errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ESHUTDOWN}


def outcome_of(error: OSError) -> Outcome:
    """What a failed connect or a lost connection means for its request."""
    if error.errno in _OWN_LIMITS:
        return Outcome.NOT_SENT
    if error.errno in _RESETS:
        return Outcome.RESET
    if error.errno == errno.ETIMEDOUT:
        return Outcome.TIMEOUT
    # Refused, unreachable, forbidden: nobody there takes connections.
    return Outcome.REFUSED


class Request:
    """A request under way. Times are ns of CLOCK_MONOTONIC, 0 for not yet."""

    __slots__ = (
        "connection",
        "deadline_ns",
        "done_ns",
        "first_byte_ns",
        "handled_ns",
        "index",
        "outcome",
        "sent_ns",
        "size_bytes",
    )

    def __init__(self, index: int, handled_ns: int, deadline_ns: int) -> None:
        self.index = index
        self.handled_ns = handled_ns
        self.deadline_ns = deadline_ns
        self.sent_ns = 0
        self.first_byte_ns = 0
        self.done_ns = 0
        self.size_bytes = 0
        self.outcome = Outcome.PENDING
        self.connection: Connection | None = None


class Owner(Protocol):
    """Who keeps the connections."""

    def wire(self, request: Request) -> bytes:
        """The request's bytes."""

    def ended(self, request: Request, outcome: Outcome) -> None:
        """The request is over; called once for each."""

    def freed(self, connection: Connection) -> None:
        """The connection can take another request."""

    def lost(self, connection: Connection) -> None:
        """The connection is gone; called once for each that was made or failed to be."""


class Connection(asyncio.Protocol):
    """A connection to the target; carries one request at a time.

    Ends by itself when it cannot be used again: the target is left to close first where it says
    that it will, so that no port of the client's stays in TIME_WAIT.
    """

    def __init__(self, owner: Owner, request: Request) -> None:
        self._owner = owner
        self._request: Request | None = request
        self._carried = request
        self._lost = False
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        request.connection = self

    def connect(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        """Start connecting; the request is sent as soon as that has happened."""
        self._connecting = loop.create_task(self._connect(loop, host, port))

    async def _connect(self, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        try:
            await loop.create_connection(lambda: self, host, port)
        except OSError as error:
            self._fail(outcome_of(error))
            self._gone()
        except asyncio.CancelledError:
            # Only `abort` cancels. The connection may have been made in that very moment.
            if self._transport is not None:
                self._transport.abort()
            else:
                self._gone()
        finally:
            self._connecting = None

    def holds(self, request: Request) -> bool:
        """Whether the connection is there because of `request`, which may be over already."""
        return self._carried is request and not self._lost

    def send(self, request: Request) -> None:
        """Send another request on this free connection."""
        self._request = request
        self._carried = request
        request.connection = self
        request.sent_ns = time.monotonic_ns()
        self._reader = ResponseReader()
        assert self._transport is not None
        self._transport.write(self._owner.wire(request))

    def abort(self) -> None:
        """End the connection now; its request is no longer its business."""
        self._request = None
        if self._transport is not None:
            self._transport.abort()
        elif self._connecting is not None:
            self._connecting.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self._transport = cast(asyncio.Transport, transport)
        if self._request is None:
            self._transport.abort()
        else:
            self._transport.write(self._owner.wire(self._request))

    def data_received(self, data: bytes) -> None:
        request = self._request
        if request is None:
            # Bytes that nobody asked for: the next response could not be told from them.
            self.abort()
            return
        now_ns = time.monotonic_ns()
        if not request.first_byte_ns:
            request.first_byte_ns = now_ns
        reader = self._reader
        reader.feed(data)
        if reader.complete:
            self._complete(now_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._request is not None:
            self._reader.end()
            if isinstance(exc, OSError):
                self._fail(outcome_of(exc))
            elif self._reader.complete:
                self._complete(time.monotonic_ns())
            else:
                self._fail(Outcome.TRUNCATED)
        self._gone()

    def _complete(self, now_ns: int) -> None:
        request, reader = self._request, self._reader
        assert request is not None
        self._request = None
        request.done_ns = now_ns
        request.size_bytes = reader.size_bytes
        good = 200 <= reader.status < 300
        self._owner.ended(request, Outcome.OK if good else Outcome.BAD_STATUS)
        if reader.keep_alive:
            self._owner.freed(self)
        elif not reader.status and self._transport is not None:
            # What is no HTTP response need not end either.
            self._transport.abort()

    def _gone(self) -> None:
        # A cancelled connect may still be told of the connection that it had made.
        if not self._lost:
            self._lost = True
            self._owner.lost(self)

    def _fail(self, outcome: Outcome) -> None:
        request = self._request
        if request is not None:
            self._request = None
            request.size_bytes = self._reader.size_bytes
            self._owner.ended(request, outcome)
