"""Waits for what a client says before its flow begins, without taking it from the socket.

Lives here: looking at the first bytes (MSG_PEEK) until a parser is content. Never here: what they
say (`lbd.wire`), what follows from it (`lbd.edge.gate`).
What was only looked at stays in the kernel's buffer: nothing is copied aside, and who reads the
socket next finds it whole. A parser's bound is the bound of what is waited for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Generic, TypeVar

from lbd.edge.arrival import Arrival
from lbd.poller import HANGUP, READ, STREAM, Poller
from lbd.wire.malformed import Malformed

T = TypeVar("T")


class Preface(Generic[T]):
    """One connection's wait. limit: the most bytes that `parse` leaves undecided.

    `on_end(preface, found)` is called once: what was parsed, why it cannot be, or None where the
    client is gone or will say no more.
    """

    __slots__ = ("_limit", "_on_end", "_parse", "_poller", "_watched", "arrival", "since_ns")

    def __init__(
        self,
        poller: Poller,
        arrival: Arrival,
        parse: Callable[[bytes], T | None],
        limit: int,
        on_end: Callable[[Preface[T], T | Malformed | None], None],
        now_ns: int,
    ) -> None:
        self.arrival = arrival
        self.since_ns = now_ns
        self._poller = poller
        self._parse = parse
        self._limit = limit
        self._on_end = on_end
        self._watched = False

    def start(self) -> None:
        """Look at once: mostly everything is there already."""
        self._on_event(READ)

    def _on_event(self, events: int) -> None:
        client = self.arrival.client
        over = bool(events & HANGUP)
        found: T | Malformed | None = None
        try:
            data = client.recv(self._limit, socket.MSG_PEEK)
            found = self._parse(data)
            over = over or not data
        except BlockingIOError:
            found = None
        except OSError:
            over = True
        except Malformed as error:
            found = error
        if found is not None or over:
            self.give_up()
            self._on_end(self, found)
        elif not self._watched:
            # Edge-triggered: bytes that were looked at are no news again.
            self._watched = True
            self._poller.watch(client.fileno(), self._on_event, STREAM)

    def give_up(self) -> None:
        """Wait no more: the socket is somebody else's to watch."""
        if self._watched:
            self._watched = False
            self._poller.unwatch(self.arrival.client.fileno())
