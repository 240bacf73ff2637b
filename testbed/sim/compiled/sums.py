"""Sums in numpy's order, so that compiled rules agree with the live ones to the last bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from testbed.sim.compiled.jit import outer


@outer
def add_up(values: NDArray[np.float64], count: int) -> float:
    """The sum of the first `count`, as `np.sum` adds up to 128: eight sums side by side."""
    total, whole = 0.0, 0
    if count >= 8:
        whole = count - count % 8
        a, b, c, d = values[0], values[1], values[2], values[3]
        e, f, g, h = values[4], values[5], values[6], values[7]
        for at in range(8, whole, 8):
            a += values[at]
            b += values[at + 1]
            c += values[at + 2]
            d += values[at + 3]
            e += values[at + 4]
            f += values[at + 5]
            g += values[at + 6]
            h += values[at + 7]
        total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for at in range(whole, count):
        total += values[at]
    return total
