"""Memory in which something happens at each copy: a race that always comes out the same way.

Lives here: the array type. Never here: what happens, nor what should follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Lapped(np.ndarray):
    """Calls `during` after each `copy()`, as if a writer had been busy meanwhile."""

    during: Callable[[], None] | None = None

    def __array_finalize__(self, of: Any) -> None:
        self.during = getattr(of, "during", None)

    def copy(self, order: Any = "C") -> np.ndarray:
        copied = np.array(self, order=order)
        if self.during is not None:
            self.during()
        return copied


def lapped(memory: np.ndarray, during: Callable[[], None]) -> Lapped:
    """The same memory, seen by a reader that is raced."""
    view = memory.view(Lapped)
    view.during = during
    return view
