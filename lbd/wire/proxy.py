"""The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): reading and writing.

Lives here: what both versions tell, and which of them it is. Never here: bytes of one version
(`proxy_v1`, `proxy_v2`); whom to believe (`lbd.edge`).
"""

from __future__ import annotations

from typing import Final

from lbd.wire import proxy_v1, proxy_v2
from lbd.wire.malformed import Malformed
from lbd.wire.proxied import Proxied

__all__ = ["MAX_HEADER_BYTES", "OF_NOBODY", "parse"]

MAX_HEADER_BYTES: Final = proxy_v2.MAX_HEADER_BYTES
OF_NOBODY: Final = {1: b"PROXY UNKNOWN\r\n", 2: proxy_v2.SIGNATURE + b"\x20\x00\x00\x00"}
"""By version: the header of a connection that its sender makes for itself (2.1, 2.2: LOCAL)."""


def parse(data: bytes) -> Proxied | None:
    """The header at the start of `data`; None while it is incomplete.

    Raises Malformed where no header can begin like this; TooLong, a kind of it, where the header is
    longer than is accepted.
    """
    if data.startswith(proxy_v2.SIGNATURE):
        return proxy_v2.parse(data)
    if data.startswith(proxy_v1.SIGNATURE):
        return proxy_v1.parse(data)
    if proxy_v1.SIGNATURE.startswith(data) or proxy_v2.SIGNATURE.startswith(data):
        return None
    raise Malformed("no PROXY header")
