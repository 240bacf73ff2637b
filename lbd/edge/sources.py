"""How many connections a source network has and makes, over all workers, and whether it may more.

Lives here: the limits a source. Never here: where its entry is (`lbd.edge.table`).

The rate is that of a sliding window: connections of the current window, and of the one before as
many as are still in sight if they had come evenly. Windows are cut by the clock, so that all
workers cut alike and their counts can be summed. Two workers that admit at the same moment see each
other's connection too late: a limit is passed by one connection a further worker at most.
"""

from __future__ import annotations

import enum
from typing import Final

from config.edges import PerSource
from lbd.edge.networks import network_of
from lbd.edge.table import NONE, VALUE, SharedTable
from lbd.wire.endpoint import Endpoint

_OPEN: Final = VALUE
_WINDOW: Final = VALUE + 1
_NEW: Final = VALUE + 2
_BEFORE: Final = VALUE + 3


class Verdict(enum.Enum):
    """Why a connection is not let in; the value is its counter."""

    CONNECTIONS = "refused_source_connections_total"
    RATE = "refused_source_rate_total"


UNTRACKED: Final = NONE
"""In place of an entry: let in, and not counted."""


class Sources:
    """One service's. `admit` and `leave` belong together, as accept and close do."""

    def __init__(self, config: PerSource, table: SharedTable) -> None:
        self._connections = config.connections
        self._new = config.new
        self._window_ns = int(config.window_s * 1e9)
        self._prefixes = (config.ipv4_prefix, config.ipv6_prefix)
        self._table = table
        self.untracked_total = 0

    def admit(self, source: Endpoint, now_ns: int) -> int | Verdict:
        """The entry to `leave` by, or why not."""
        network = network_of(source, *self._prefixes)
        if network is None:
            return UNTRACKED
        table = self._table
        key = table.key(network)
        window, into_ns = divmod(now_ns, self._window_ns)
        connections = new = before = 0
        for entry in table.all(key):
            connections += entry[_OPEN]
            if entry[_WINDOW] == window:
                new += entry[_NEW]
                before += entry[_BEFORE]
            elif entry[_WINDOW] == window - 1:
                before += entry[_NEW]
        if self._connections is not None and connections >= self._connections:
            return Verdict.CONNECTIONS
        # One more must fit: what is in sight of the window that ends now.
        in_sight = new + before * (1.0 - into_ns / self._window_ns)
        if self._new is not None and in_sight + 1.0 > self._new:
            return Verdict.RATE
        return self._enter(key, window, now_ns)

    def _enter(self, key: int, window: int, now_ns: int) -> int:
        words = self._table.words
        at, _ = self._table.claim(key, now_ns, lambda at: words[at + _OPEN] > 0)
        if at == NONE:
            self.untracked_total += 1
            return UNTRACKED
        if words[at + _WINDOW] != window:
            just_before = words[at + _WINDOW] == window - 1
            words[at + _BEFORE] = words[at + _NEW] if just_before else 0
            words[at + _NEW] = 0
            words[at + _WINDOW] = window
        words[at + _NEW] += 1
        words[at + _OPEN] += 1
        return at

    def leave(self, at: int) -> None:
        if at != UNTRACKED:
            self._table.words[at + _OPEN] -= 1
