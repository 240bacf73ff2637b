"""One client's connection: requests in, one at a time, in order.

Lives here: what happens to a connection. Never here: parsing (`request`), capacity (`backend`).
Bounds: connections (`connections_max`, beyond: reset), bytes kept ahead of an answer (reading
pauses), answers not yet read by the client (the next request waits). An idle connection is kept
until its client closes it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import cast

from testbed.server.backend import Backend, Fault
from testbed.server.request import (
    BODY_MAX_BYTES,
    HEAD_MAX_BYTES,
    BadRequestError,
    Control,
    Head,
    Refusal,
    Stats,
    Wish,
    Work,
    parse_head,
    response,
    understand,
)

_AHEAD_MAX_BYTES = HEAD_MAX_BYTES + BODY_MAX_BYTES
_LINGER_0 = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """Serves one connection; its own identity is its job's."""

    def __init__(self, backend: Backend, page: bytes) -> None:
        self._backend = backend
        self._page = page
        self._buffer = bytearray()
        self._transport: asyncio.Transport
        self._waiting = False
        self._keep_alive = True
        self._writable = True
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self._transport = cast(asyncio.Transport, transport)
        if len(self._backend.clients) >= self._backend.settings.connections_max:
            self._backend.connections_refused += 1
            self._reset()
            return
        self._backend.clients.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._serve()
        if len(self._buffer) > _AHEAD_MAX_BYTES and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        if self._waiting and not self._backend.settings.half_close_is_gone:
            self._keep_alive = False
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._waiting = False
            self._backend.cancel(self)
        self._backend.clients.discard(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._serve()

    def job_done(self) -> None:
        """The backend's word that the work is done."""
        # It may have been done in the very moment in which the client left.
        if self._waiting:
            self._waiting = False
            self._answer(200, self._page)
            self._serve()

    def drop(self) -> None:
        """The server ends."""
        self._transport.abort()

    def _serve(self) -> None:
        """Take up what the client has sent, until a request has to be waited for."""
        while not self._waiting and self._writable and not self._transport.is_closing():
            try:
                head = parse_head(self._buffer)
                if head is None or len(self._buffer) < head.size_bytes + head.body_bytes:
                    break
                wish = understand(head, self._backend.settings.iterations_per_s)
                if isinstance(wish, Control):
                    self._control(wish)
            except BadRequestError as error:
                self._backend.bad_requests += 1
                self._keep_alive = False
                self._answer(400, f"{error}\n".encode())
                break
            del self._buffer[: head.size_bytes + head.body_bytes]
            self._fulfil(head, wish)
        if self._transport.is_closing() or self._waiting or self._reading:
            return
        if len(self._buffer) <= _AHEAD_MAX_BYTES:
            self._reading = True
            self._transport.resume_reading()

    def _fulfil(self, head: Head, wish: Wish) -> None:
        self._keep_alive = head.keep_alive
        match wish:
            case Work(work_s):
                self._work(work_s)
            case Stats():
                body = json.dumps(self._backend.stats()).encode()
                self._answer(200, body, kind="application/json")
            case Control():
                self._answer(200, b"changed\n")
            case Refusal(status, why):
                self._answer(status, f"{why}\n".encode())

    def _work(self, work_s: float) -> None:
        if self._backend.fault is Fault.RESET:
            self._reset()
        elif self._backend.fault is Fault.BLACKHOLE or self._backend.submit(self, work_s):
            self._waiting = True
        else:
            # As a kernel with tcp_abort_on_overflow treats a connection beyond the backlog.
            self._reset()

    def _control(self, wish: Control) -> None:
        if wish.fault is not None:
            try:
                self._backend.fault = Fault(wish.fault)
            except ValueError as error:
                raise BadRequestError(f"fault must be one of {', '.join(Fault)}") from error
        if wish.speed is not None:
            self._backend.set_speed(wish.speed)

    def _answer(self, status: int, body: bytes, *, kind: str = "text/plain") -> None:
        keep_alive = self._keep_alive
        self._transport.write(response(status, body, keep_alive=keep_alive, kind=kind))
        if not keep_alive:
            self._transport.close()

    def _reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self._transport.abort()
