"""PROXY protocol version 2: binary, with type-length-value vectors (specification 2.2).

    12 bytes signature | version, command | family, transport | 2 bytes length | addresses | vectors

Lives here: that header. Never here: version 1; the vectors' own form (`lbd.wire.tlv`).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from lbd.wire import tlv
from lbd.wire.crc32c import crc32c
from lbd.wire.endpoint import Endpoint, same_family
from lbd.wire.malformed import Malformed, TooLong
from lbd.wire.proxied import Proxied
from lbd.wire.tlv import Tlv

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
HEAD_BYTES: Final = 16
MAX_HEADER_BYTES: Final = 16384
"""Accepted at most. The length field could tell 64 KiB, which would have to be held for everybody
who sends it; a client certificate and all other vectors fit into a quarter of that."""

_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_STREAM: Final = 1
_DATAGRAM: Final = 2
_HEAD: Final = struct.Struct("!12sBBH")
_PORTS: Final = struct.Struct("!HH")
_PATH_BYTES: Final = 108
# High nibble of the family byte to the family, and the size of its address block.
_FAMILIES: Final = {
    1: (socket.AF_INET, 12),
    2: (socket.AF_INET6, 36),
    3: (socket.AF_UNIX, 2 * _PATH_BYTES),
}
_CODE: Final = {family: code for code, (family, _) in _FAMILIES.items()}
_UNSPECIFIED: Final = 0


def parse(data: bytes) -> Proxied | None:
    """`data` begins with `SIGNATURE`. None while incomplete; raises Malformed or TooLong.

    What the first 16 bytes already rule out is told as soon as they are there.
    """
    if len(data) < HEAD_BYTES:
        return None
    _, command, family, length = _HEAD.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise Malformed("neither LOCAL nor PROXY of version 2")
    size = HEAD_BYTES + length
    if size > MAX_HEADER_BYTES:
        raise TooLong(f"a header of {size} bytes")
    if command == _PROXY:
        _check(family, length)
    if len(data) < size:
        return None
    if command == _LOCAL:
        # Family and addresses are to be ignored, so where vectors would begin is not known.
        return Proxied(None, None, (), size)
    return _proxied(data[:size], family >> 4)


def _check(family: int, length: int) -> None:
    """Raises Malformed where family and transport are none, or the addresses do not fit in."""
    code, transport = divmod(family, 16)
    if family == _UNSPECIFIED:
        return
    if code not in _FAMILIES or transport not in (_STREAM, _DATAGRAM):
        raise Malformed("an unknown family or transport")
    if length < _FAMILIES[code][1]:
        raise Malformed("addresses that are cut short")


def _proxied(header: bytes, code: int) -> Proxied:
    if code == _UNSPECIFIED:
        return Proxied(None, None, _vectors(header, HEAD_BYTES), len(header))
    family, block_bytes = _FAMILIES[code]
    block = header[HEAD_BYTES : HEAD_BYTES + block_bytes]
    source, destination = _ends(family, block)
    vectors = _vectors(header, HEAD_BYTES + block_bytes)
    return Proxied(source, destination, vectors, len(header))


def _ends(family: int, block: bytes) -> tuple[Endpoint, Endpoint]:
    if family == socket.AF_UNIX:
        paths = (block[:_PATH_BYTES], block[_PATH_BYTES:])
        source, destination = (os.fsdecode(path.partition(b"\0")[0]) for path in paths)
        return Endpoint(family, source, 0), Endpoint(family, destination, 0)
    width = (len(block) - _PORTS.size) // 2
    source_port, destination_port = _PORTS.unpack_from(block, 2 * width)
    return (
        Endpoint(family, socket.inet_ntop(family, block[:width]), source_port),
        Endpoint(family, socket.inet_ntop(family, block[width : 2 * width]), destination_port),
    )


def _vectors(header: bytes, start: int) -> tuple[Tlv, ...]:
    """The vectors from `start` on. Raises Malformed, also where the checksum is wrong."""
    found = tlv.parse(header[start:])
    sums = [vector.value for vector in found if vector.type == tlv.CRC32C]
    if len(sums) > 1:
        raise Malformed("two checksums")
    if sums and int.from_bytes(sums[0], "big") != crc32c(_without_sum(header, start)):
        raise Malformed("a wrong checksum")
    return tuple(vector for vector in found if vector.type != tlv.CRC32C)


def _without_sum(header: bytes, start: int) -> bytes:
    """The header with zeros for its checksum, over which that is computed."""
    at = start
    while header[at] != tlv.CRC32C:
        at += 3 + int.from_bytes(header[at + 1 : at + 3], "big")
    return header[: at + 3] + bytes(4) + header[at + 7 :]


def build(
    source: Endpoint, destination: Endpoint, tlvs: Sequence[Tlv] = (), checksum: bool = False
) -> bytes:
    """A header of command PROXY; the checksum, if asked for, is its last vector.

    Where one end alone is a Unix socket, the addresses are left unspecified: no family names both.
    Raises ValueError where the header would be longer than `MAX_HEADER_BYTES`.
    """
    one_is_unix = socket.AF_UNIX in (source.family, destination.family)
    if one_is_unix and source.family != destination.family:
        family, block = _UNSPECIFIED, b""
    else:
        source, destination = same_family(source, destination)
        family = _CODE[socket.AddressFamily(source.family)] << 4 | _STREAM
        block = _block(source, destination)
    vectors = [*tlvs, Tlv(tlv.CRC32C, bytes(4))] if checksum else tlvs
    body = block + tlv.build(vectors)
    size = HEAD_BYTES + len(body)
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {size} bytes, more than {MAX_HEADER_BYTES}")
    header = _HEAD.pack(SIGNATURE, _PROXY, family, len(body)) + body
    return header[:-4] + crc32c(header).to_bytes(4, "big") if checksum else header


def _block(source: Endpoint, destination: Endpoint) -> bytes:
    if source.family == socket.AF_UNIX:
        paths = (os.fsencode(end.host)[:_PATH_BYTES] for end in (source, destination))
        return b"".join(path.ljust(_PATH_BYTES, b"\0") for path in paths)
    return source.packed + destination.packed + _PORTS.pack(source.port, destination.port)
