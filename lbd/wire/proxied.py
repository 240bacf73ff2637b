"""What a PROXY header says, whichever version said it.

Lives here: the record. Never here: bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from lbd.wire.endpoint import Endpoint
from lbd.wire.tlv import Tlv


@dataclass(frozen=True)
class Proxied:
    """`source` and `destination` are None where the header leaves them to the connection itself:
    LOCAL and UNKNOWN. size: bytes of the header, after which the client's own begin.
    """

    source: Endpoint | None
    destination: Endpoint | None
    tlvs: tuple[Tlv, ...]
    size: int
