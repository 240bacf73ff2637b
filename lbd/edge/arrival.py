"""A connection that was accepted and is not yet a flow, and what is known of it then.

Lives here: the record. Never here: what is done with it (`lbd.edge.gate`, `lbd.edge.handover`).
"""

from __future__ import annotations

import socket
from collections.abc import Container
from typing import TYPE_CHECKING

from lbd.dispatch import NONE
from lbd.edge.sources import UNTRACKED
from lbd.wire.client_hello import ClientHello
from lbd.wire.endpoint import Endpoint
from lbd.wire.proxied import Proxied
from lbd.wire.tlv import Tlv

if TYPE_CHECKING:
    from lbd.edge.handover import Handover


class Arrival:
    """source: whom the connection comes from, by its PROXY header if it has one.

    destination: where it was made to, None for where it was accepted. place: its source's entry
    among the limits. recalled: the slot where the source was before. greeting: what its backend
    gets before the client's first byte. handover: of the service that it is for, set when that is
    known; the four calls below go to it.
    """

    __slots__ = (
        "client",
        "destination",
        "greeting",
        "handover",
        "hello",
        "place",
        "recalled",
        "source",
        "stick_key",
        "tlvs",
    )
    handover: Handover

    def __init__(self, client: socket.socket, source: Endpoint) -> None:
        self.client = client
        self.source = source
        self.destination: Endpoint | None = None
        self.tlvs: tuple[Tlv, ...] = ()
        self.hello: ClientHello | None = None
        self.place = UNTRACKED
        self.stick_key: int | None = None
        self.recalled = NONE
        self.greeting = b""

    def introduce(self, header: Proxied) -> None:
        """Believe a PROXY header."""
        if header.source is not None:
            self.source = header.source
        self.destination = header.destination
        self.tlvs = header.tlvs

    @property
    def peer(self) -> tuple[str, int] | str:
        """The source as accept(2) would name it."""
        if self.source.family == socket.AF_UNIX:
            return self.source.host
        return self.source.host, self.source.port

    def recall(self, usable: Container[int], now_ns: int) -> int:
        return self.handover.recall(self, usable, now_ns)

    def given(self, slot: int, now_ns: int) -> None:
        self.handover.given(self, slot, now_ns)

    def moved(self, slot: int, now_ns: int) -> None:
        self.handover.moved(self, slot, now_ns)

    def ended(self, slot: int, now_ns: int) -> None:
        self.handover.ended(self, slot, now_ns)
