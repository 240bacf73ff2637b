"""Memory in which something happens at each copy or look: a race that always ends the same way.

Lives here: the array type. Never here: what happens, nor what should follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Lapped(np.ndarray):
    """Calls `during` after each `moment`, as if a writer had been busy meanwhile."""

    during: Callable[[], None] | None = None
    moment = "copy"

    def __array_finalize__(self, of: Any) -> None:
        self.during = getattr(of, "during", None)
        self.moment = getattr(of, "moment", "copy")

    def copy(self, order: Any = "C") -> np.ndarray:
        copied = np.array(self, order=order)
        self._happen("copy")
        return copied

    def argmax(self, *arguments: Any, **named: Any) -> Any:
        found = self.view(np.ndarray).argmax(*arguments, **named)
        self._happen("argmax")
        return found

    def _happen(self, moment: str) -> None:
        if self.during is not None and moment == self.moment:
            self.during()


def lapped(memory: np.ndarray, during: Callable[[], None], moment: str = "copy") -> Lapped:
    """The same memory, seen by a reader that is raced; `moment` is "copy" or "argmax"."""
    view = memory.view(Lapped)
    view.during = during
    view.moment = moment
    return view
