"""Local shortest queue: the backend with the fewest flows in progress (argmin q)."""

from __future__ import annotations

import numpy as np

from lbd.dispatch.load import Vector
from lbd.dispatch.policy import LeastScore


class ShortestQueue(LeastScore):
    name = "lsq"

    def costs(self) -> Vector:
        return np.ones(self.load.slots)
