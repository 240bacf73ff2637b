"""A timer of an event loop that keeps microseconds.

Lives here: one timerfd behind one callback. uvloop's own timers count whole milliseconds and
ring up to one too early or late; this one rings within some tens of microseconds.
Never here: what is done when it rings.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from testbed.kernel import timerfd_create, timerfd_set


class Alarm:
    """Calls `on_ring()` once, at the time last set. Owns its descriptor until `close`.

    After `close` it may still be set, and does not ring: connections that end later do so.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_ring: Callable[[], None]) -> None:
        self._loop = loop
        self._on_ring = on_ring
        self._at_ns = 0
        self._descriptor = timerfd_create()
        loop.add_reader(self._descriptor, self._readable)

    def set(self, at_ns: int) -> None:
        """Ring at `at_ns` of `time.monotonic_ns`, at once if that is past; replaces the former."""
        if at_ns <= 0:
            raise ValueError(f"an alarm rings at a positive time, not {at_ns}")
        if at_ns != self._at_ns and self._descriptor >= 0:
            self._at_ns = at_ns
            timerfd_set(self._descriptor, at_ns)

    def clear(self) -> None:
        """Do not ring."""
        if self._at_ns and self._descriptor >= 0:
            self._at_ns = 0
            timerfd_set(self._descriptor, 0)

    def close(self) -> None:
        """Never ring again and give the descriptor back; may be called twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            # Set anew between the loop's poll and this callback: the new time is still to come.
            return
        self._at_ns = 0
        self._on_ring()
