"""Which backend a source had, over all workers, for as long as it is remembered.

Lives here: remembering and its end. Never here: where an entry is (`lbd.edge.table`), which backend
a new source gets (`lbd.dispatch`).
A backend is remembered by its identity: who gets its slot later is somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from config.edges import Stick as StickConfig
from lbd.dispatch import NONE
from lbd.edge.networks import network_of
from lbd.edge.table import USED_NS, VALUE, SharedTable
from lbd.wire.endpoint import Endpoint

_SLOT: Final = VALUE
_IDENTITY: Final = VALUE + 1


class Stick:
    """One service's. identity_of: the identity of the backend in a slot now."""

    def __init__(
        self, config: StickConfig, table: SharedTable, identity_of: Callable[[int], int]
    ) -> None:
        self._prefixes = (config.ipv4_prefix, config.ipv6_prefix)
        self._expiry_ns = int(config.expiry_s * 1e9)
        self._table = table
        self._identity_of = identity_of

    def key(self, source: Endpoint) -> int | None:
        """None for who cannot be told from others: a Unix socket's peer."""
        network = network_of(source, *self._prefixes)
        return None if network is None else self._table.key(network)

    def recall(self, key: int, usable: Container[int], now_ns: int) -> int:
        """The slot that the source had last; NONE if that is too long ago, or not usable."""
        newest = self._newest(key)
        if newest is None or now_ns - newest[USED_NS] > self._expiry_ns:
            return NONE
        slot = newest[_SLOT]
        if slot not in usable or self._identity_of(slot) != newest[_IDENTITY]:
            return NONE
        return slot

    def prolong(self, key: int, slot: int, now_ns: int) -> bool:
        """`remember`, unless the source has been given to another backend since."""
        newest = self._newest(key)
        if newest is not None and newest[_IDENTITY] != self._identity_of(slot):
            return False
        return self.remember(key, slot, now_ns)

    def _newest(self, key: int) -> tuple[int, ...] | None:
        return max(self._table.all(key), key=lambda entry: entry[USED_NS], default=None)

    def remember(self, key: int, slot: int, now_ns: int) -> bool:
        """True where another source had to be forgotten before its time."""
        at, lost_ns = self._table.claim(key, now_ns)
        words = self._table.words
        words[at + _IDENTITY] = self._identity_of(slot)
        words[at + _SLOT] = slot
        return bool(lost_ns) and now_ns - lost_ns < self._expiry_ns
