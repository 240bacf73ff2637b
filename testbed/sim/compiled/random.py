"""A generator of random numbers that compiled loops and tests share.

Source: splitmix64, Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
"""

from __future__ import annotations

import numpy as np

from testbed.sim.compiled.jit import inner
from testbed.sim.records import State

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@inner
def uniform(s: State) -> float:
    """The next number in [0, 1)."""
    world = s.world[0]
    world.random += _GAMMA
    z = world.random
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)
