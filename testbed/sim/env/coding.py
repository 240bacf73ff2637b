"""Observations and actions as boxes of a fixed size, whatever the number of backends.

Lives here: the spaces, and what goes into and comes out of them. Never here: the simulator.
Row j is slot j: a backend keeps its row while others come and go. A row without a backend is zero
in the mask and in the features, and its action is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agent.observe import CLIP, FEATURE_COUNT, SERVICE_COUNT, Observation
from agent.settings import ACTIONS
from shm.snapshot import Ints

Float32 = NDArray[np.float32]
Coded = dict[str, NDArray[Any]]

LEAST = -CLIP
MOST = 0.5 * np.log(2.0**31)
"""Bounds of every feature: log ratios end at +-CLIP, log counts (by half) at 2^31 flows."""


class ActionError(ValueError):
    """An action that cannot be used; the message says what was found."""


def observation_space(max_backends: int) -> spaces.Dict:
    """backends (max, FEATURE_COUNT) and service (SERVICE_COUNT,), f32, and mask (max,), 0 or 1."""
    return spaces.Dict(
        {
            "backends": spaces.Box(LEAST, MOST, (max_backends, FEATURE_COUNT), np.float32),
            "service": spaces.Box(LEAST, MOST, (SERVICE_COUNT,), np.float32),
            "mask": spaces.MultiBinary(max_backends),
        }
    )


def action_space(max_backends: int) -> spaces.Box:
    """(max, A) f32 in [-1, 1], columns as `agent.settings.ACTIONS` has them: the first is each
    backend's log-weight over its bound. All 0 is neutral."""
    return spaces.Box(-1.0, 1.0, (max_backends, len(ACTIONS)), np.float32)


def encode(observation: Observation, slots: Ints, max_backends: int) -> Coded:
    """An observation whose row i is the backend in slots[i], every slot below max_backends."""
    backends = np.zeros((max_backends, FEATURE_COUNT), np.float32)
    backends[slots] = observation.features
    mask = np.zeros(max_backends, np.int8)
    mask[slots] = 1
    return {"backends": backends, "service": observation.service, "mask": mask}


def decode(action: NDArray[Any], slots: Ints, max_backends: int) -> Float32:
    """The rows (N, A) of the backends that there are, clipped to [-1, 1]. Raises ActionError."""
    u = np.asarray(action, dtype=np.float32)
    if u.shape != (shape := (max_backends, len(ACTIONS))):
        raise ActionError(f"an action has shape {shape}, not {u.shape}")
    present = u[slots]
    if not np.isfinite(present).all():
        raise ActionError(f"an action must be finite, not {u}")
    return np.clip(present, -1.0, 1.0)


def flat(coded: Mapping[str, NDArray[Any]]) -> Float32:
    """All of an observation in one vector, for networks that know no structure."""
    parts = (coded["backends"].ravel(), coded["service"], coded["mask"])
    return np.concatenate(parts, dtype=np.float32)
