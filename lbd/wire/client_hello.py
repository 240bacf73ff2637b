"""The TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3; RFC 7301), read without terminating TLS.

Lives here: the way through records and handshake to the name of the server that the client wants.
Never here: a key, a cipher, a decision.

    record: type 22 | version 3.x | 2 bytes length | part of the handshake
    handshake: type 1 | 3 bytes length | version | random | session | ciphers | compression | ext.

The handshake may be spread over records in any way, the records over segments in any way.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from lbd.wire.malformed import Malformed, TooLong

MAX_BYTES: Final = 16384
"""Of records read at most, until the ClientHello is complete."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 1 << 14
_RECORD_HEAD: Final = 5
_HEAD: Final = 4
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_HOST_NAME: Final = 0
_U16: Final = struct.Struct("!H")
_NAME: Final = re.compile(rb"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True)
class ClientHello:
    """server_name: lower case, without a final dot; None where the client names none.

    alpn: the protocols it offers, in its order.
    """

    server_name: str | None
    alpn: tuple[bytes, ...]


def parse(data: bytes) -> ClientHello | None:
    """The ClientHello at the start of `data`; None while it is incomplete. Raises Malformed."""
    handshake = b""
    at = 0
    while True:
        record = _record(data, at)
        if record is None:
            break
        handshake += record
        at += _RECORD_HEAD + len(record)
        hello = _handshake(handshake)
        if hello is not None:
            return hello
    if len(data) >= MAX_BYTES:
        raise TooLong(f"no ClientHello in {MAX_BYTES} bytes")
    return None


def _record(data: bytes, at: int) -> bytes | None:
    """The content of the record at `at`; None where it is incomplete."""
    head = data[at : at + _RECORD_HEAD]
    if head[:1] not in (b"", bytes([_HANDSHAKE])) or head[1:2] not in (b"", b"\3"):
        raise Malformed("no TLS handshake")
    if len(head) < _RECORD_HEAD:
        return None
    (length,) = _U16.unpack_from(head, 3)
    if not 0 < length <= _MAX_RECORD:
        raise Malformed("a record of an impossible length")
    content = data[at + _RECORD_HEAD : at + _RECORD_HEAD + length]
    return content if len(content) == length else None


def _handshake(data: bytes) -> ClientHello | None:
    if data[:1] != bytes([_CLIENT_HELLO]):
        raise Malformed("a handshake that does not begin with a ClientHello")
    if len(data) < _HEAD:
        return None
    length = int.from_bytes(data[1:_HEAD], "big")
    if length > MAX_BYTES:
        raise TooLong(f"a ClientHello of {length} bytes")
    if len(data) < _HEAD + length:
        return None
    return _client_hello(_Fields(data[_HEAD : _HEAD + length]))


def _client_hello(fields: _Fields) -> ClientHello:
    fields.take(2 + 32)  # version, random
    fields.vector(1)  # session
    if not fields.vector(2) or not fields.vector(1):
        raise Malformed("neither a cipher nor a compression")
    found: dict[int, bytes] = {}
    if fields.left():
        extensions = _Fields(fields.vector(2))
        while extensions.left():
            kind = extensions.number(2)
            if kind in found:
                raise Malformed("an extension given twice")
            found[kind] = extensions.vector(2)
    if fields.left():
        raise Malformed("bytes after the extensions")
    name = _server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else None
    return ClientHello(name, _protocols(found[_ALPN]) if _ALPN in found else ())


def _server_name(value: bytes) -> str:
    """RFC 6066, 3: a list with at most one name a type; the only type there is is host_name."""
    fields = _Fields(value)
    names = _Fields(fields.vector(2))
    if fields.left() or not names.left():
        raise Malformed("a list of server names that is none")
    if names.number(1) != _HOST_NAME:
        raise Malformed("a server name of an unknown type")
    name = names.vector(2)
    if names.left():
        raise Malformed("two server names")
    if len(name) > 254 or not _NAME.fullmatch(name):
        raise Malformed("a server name that is none")
    return name.decode("ascii").lower().removesuffix(".")


def _protocols(value: bytes) -> tuple[bytes, ...]:
    fields = _Fields(value)
    names = _Fields(fields.vector(2))
    if fields.left() or not names.left():
        raise Malformed("a list of protocols that is none")
    found = []
    while names.left():
        name = names.vector(1)
        if not name:
            raise Malformed("a protocol without a name")
        found.append(name)
    return tuple(found)


class _Fields:
    """TLS presentation language: numbers, and vectors after their length. Raises Malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def left(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise Malformed("a ClientHello that is cut short")
        self._at += count
        return part

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))
