"""One end of the line between the supervisor and a worker: whole messages, both ways.

Lives here: framing and its bounds. Never here: what a message means.
A message is four bytes of length, big-endian, and as many of JSON. The end of the line is the news
that the other side is gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

MESSAGE_BYTES: Final = 1 << 24
PENDING_BYTES: Final = 1 << 25
"""A side that does not read is sent no more than this; what comes on top is dropped and counted."""

_HEAD: Final = struct.Struct(">I")

Message = dict[str, Any]


class ChannelError(Exception):
    """The other side broke the framing."""


def frame(message: Message) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEAD.pack(len(body)) + body


def receive(sock: socket.socket) -> Message | None:
    """One message from a blocking socket; None at its end."""
    head = _exactly(sock, _HEAD.size)
    body = head and _exactly(sock, _length(head))
    return None if not body else dict(json.loads(body))


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            return b""
        data += part
    return bytes(data)


def _length(head: bytes) -> int:
    (length,) = _HEAD.unpack(head)
    if length > MESSAGE_BYTES:
        raise ChannelError(f"a message of {length} bytes, more than {MESSAGE_BYTES}")
    return int(length)


class Channel(asyncio.Protocol):
    """`on_message(message)` for each, `on_end()` once. `dropped_total` counts what was not sent."""

    def __init__(self, on_message: Callable[[Message], object], on_end: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self.dropped_total = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD.size:
            end = _HEAD.size + _length(bytes(buffer[: _HEAD.size]))
            if len(buffer) < end:
                return
            message = json.loads(bytes(buffer[_HEAD.size : end]))
            del buffer[:end]
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_end()

    def send(self, message: Message) -> bool:
        """False if the other side is gone or too far behind, or the message is too large."""
        transport = self._transport
        data = frame(message)
        if (
            transport is None
            or transport.get_write_buffer_size() > PENDING_BYTES
            or len(data) > _HEAD.size + MESSAGE_BYTES
        ):
            self.dropped_total += 1
            return False
        transport.write(data)
        return True

    def fileno(self) -> int:
        """The descriptor; -1 where the line has ended."""
        if self._transport is None:
            return -1
        return int(self._transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
