"""What the results of active checks say of one backend: rise and fall.

Lives here: the count, pure. Never here: making a check (`lbd.health.probe`).
"""

from __future__ import annotations


class Verdict:
    """Up at first, and one failure away from down: what never worked must not get flows for long.

    As in HAProxy, one number holds both counts: below `rise` it is down, each success adds one and
    each failure takes one, and a change of the verdict sets it to the far end.
    """

    def __init__(self, rise: int, fall: int) -> None:
        self._rise = rise
        self._most = rise + fall - 1
        self._count = rise

    @property
    def up(self) -> bool:
        return self._count >= self._rise

    @property
    def steady(self) -> bool:
        """Whether the last results all say the same as the verdict."""
        return self._count in (0, self._most)

    def take(self, passed: bool) -> bool:
        """One result more; True if it has changed the verdict."""
        was_up = self.up
        if passed:
            self._count = self._most if self._count + 1 >= self._rise else self._count + 1
        else:
            self._count = self._count - 1 if self._count > self._rise else 0
        return self.up != was_up
