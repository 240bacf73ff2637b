"""What becomes of a flow whose backend failed before it took a byte.

Lives here: the decision, pure. Never here: sockets, the choice of a backend.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from typing import Final

from config.connecting import Retry

WINDOW_S: Final = 10
_SECOND_NS: Final = 1_000_000_000


class Step(enum.Enum):
    SAME = "the same backend, after a pause"
    OTHER = "another backend"
    NONE = "none: the flow has failed"


def next_step(rule: Retry, tried: Sequence[int]) -> Step:
    """What to do after the attempts at the slots `tried`, in order, have failed."""
    times = 0
    for slot in reversed(tried):
        if slot != tried[-1]:
            break
        times += 1
    if times <= rule.same:
        return Step.SAME
    return Step.OTHER if len(set(tried)) <= rule.others else Step.NONE


class RetryBudget:
    """Bounds retries, so that many failures at once do not multiply the load (a retry storm).

    In any window of about WINDOW_S seconds: `share` of the flows, and `per_s` a second besides. It
    looks at the flows by their counter, in `look` once a second or oftener: a flow that succeeds
    costs nothing.
    """

    def __init__(self, share: float, per_s: float) -> None:
        self.bound(share, per_s)
        self._marks: deque[list[int]] = deque()  # (second, flows at its first look, retries)

    def bound(self, share: float, per_s: float) -> None:
        """Another budget from now on; what was spent stays spent."""
        self._share = share
        self._per_s = per_s

    def look(self, now_ns: int, flows_total: int) -> None:
        """So many flows there have been."""
        second = now_ns // _SECOND_NS
        marks = self._marks
        while marks and marks[0][0] <= second - WINDOW_S:
            marks.popleft()
        if not marks or marks[-1][0] != second:
            marks.append([second, flows_total, 0])

    def allows(self, now_ns: int, flows_total: int) -> bool:
        """Whether one more retry is within the budget."""
        self.look(now_ns, flows_total)
        flows = flows_total - self._marks[0][1]
        retries = sum(mark[2] for mark in self._marks)
        return retries + 1 <= self._share * flows + self._per_s * WINDOW_S

    def spend(self) -> None:
        """Count the retry that was just allowed."""
        self._marks[-1][2] += 1
