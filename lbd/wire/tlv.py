"""Type-length-value vectors of the PROXY protocol, version 2 (specification 2.2).

Lives here: their binary form and the types by name. Never here: what their values mean to us.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from lbd.wire.malformed import Malformed

ALPN: Final = 0x01
AUTHORITY: Final = 0x02
CRC32C: Final = 0x03
NOOP: Final = 0x04
UNIQUE_ID: Final = 0x05
SSL: Final = 0x20
NETNS: Final = 0x30

MAX_UNIQUE_ID_BYTES: Final = 128
_SSL_HEAD_BYTES: Final = 5  # client, verify
_HEAD: Final = struct.Struct("!BH")


class Tlv(NamedTuple):
    type: int
    value: bytes


def parse(data: bytes) -> tuple[Tlv, ...]:
    """All vectors in `data`, paddings left out. Raises Malformed.

    A CRC32C must be 4 bytes, an identity at most 128 (specification 2.2.3 and 2.2.5), and what an
    SSL vector holds be vectors again (2.2.6).
    """
    found = []
    for tlv in _split(data):
        if tlv.type == CRC32C and len(tlv.value) != 4:
            raise Malformed("a CRC32C that is not 4 bytes")
        if tlv.type == UNIQUE_ID and len(tlv.value) > MAX_UNIQUE_ID_BYTES:
            raise Malformed("an identity of more than 128 bytes")
        if tlv.type == SSL:
            if len(tlv.value) < _SSL_HEAD_BYTES:
                raise Malformed("an SSL vector that is cut short")
            _split(tlv.value[_SSL_HEAD_BYTES:])
        if tlv.type != NOOP:
            found.append(tlv)
    return tuple(found)


def _split(data: bytes) -> list[Tlv]:
    found = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise Malformed("a vector's head that is cut short")
        kind, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if len(data) - at < length:
            raise Malformed("a vector longer than the header")
        found.append(Tlv(kind, data[at : at + length]))
        at += length
    return found


def build(tlvs: Iterable[Tlv]) -> bytes:
    return b"".join(_HEAD.pack(tlv.type, len(tlv.value)) + tlv.value for tlv in tlvs)
