"""The one way in which tests wait: for a condition, with a deadline.

Lives here: the polling. Never here: a sleep of a fixed time, hoping that it was enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 120.0
"""Far above what anything here takes, so that a busy machine fails no test."""


def until(look: Callable[[], T], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first truthy result of `look`; in time; else the test fails, naming `what`."""
    end = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what} (last: {found!r})")
        time.sleep(0.005)
