r"""PROXY protocol version 1: one line of text (specification 2.1).

    PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n

Lives here: that line. Never here: version 2.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from lbd.wire.endpoint import Endpoint, same_family
from lbd.wire.malformed import Malformed
from lbd.wire.proxied import Proxied

SIGNATURE: Final = b"PROXY "
MAX_LINE_BYTES: Final = 107  # the specification's, its end included
_END: Final = b"\r\n"
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_FAMILY: Final = {b"TCP4": socket.AF_INET, b"TCP6": socket.AF_INET6}
_NAME: Final = {family: name for name, family in _FAMILY.items()}


def parse(data: bytes) -> Proxied | None:
    """`data` begins with `SIGNATURE`. None while the line is incomplete; raises Malformed."""
    end = data.find(_END, 0, MAX_LINE_BYTES)
    if end < 0:
        if len(data) >= MAX_LINE_BYTES:
            raise Malformed("a line without an end")
        return None
    size = end + len(_END)
    fields = data[len(SIGNATURE) : end].split(b" ")
    if fields[0] == b"UNKNOWN":
        return Proxied(None, None, (), size)
    if len(fields) != 5 or fields[0] not in _FAMILY:
        raise Malformed("a line that is not: PROXY TCP4|TCP6 address address port port")
    family = _FAMILY[fields[0]]
    source = Endpoint(family, _host(family, fields[1]), _port(fields[3]))
    destination = Endpoint(family, _host(family, fields[2]), _port(fields[4]))
    return Proxied(source, destination, (), size)


def _host(family: int, text: bytes) -> str:
    """In canonical form."""
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, text.decode("ascii")))
    except (OSError, ValueError):  # ValueError: not ASCII, or a NUL
        raise Malformed("an address that is none of its family") from None


def _port(text: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise Malformed("a port that is not 0 to 65535")
    return int(text)


def build(source: Endpoint, destination: Endpoint) -> bytes:
    """UNKNOWN where an end is no Internet address: the version has no words for it."""
    if socket.AF_UNIX in (source.family, destination.family):
        return b"PROXY UNKNOWN\r\n"
    source, destination = same_family(source, destination)
    name = _NAME[socket.AddressFamily(source.family)].decode()
    ends = f"{source.host} {destination.host} {source.port} {destination.port}"
    return f"PROXY {name} {ends}\r\n".encode()
