"""The actor's forward pass in numpy, one step for N backends, from a dict of arrays.

Lives here: the parameter names and shapes, a fresh initialisation, the arithmetic.
Never here: sampling, weights, identities (`agent.act.policy`), gradients (`agent.learn.networks`).
Upstream: `agent.learn` hands over the arrays. Downstream: `agent.act.policy`.

Per backend: FC, FC give x_j; mean and maximum of x over the backends and the service features are
projected to a summary that is added to each x_j; GRU; FC, FC on the sum of the GRU's state and its
input (memory corrects what is seen, it need not carry it); out come the means and log standard
deviations of a Gaussian for each of ACTIONS. All parameters are shared by all backends, so N is
free and order does not matter. Names and gate order (r, z, n) are torch's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import ACTIONS, HIDDEN

Float32 = NDArray[np.float32]
Parameters = Mapping[str, Float32]

SUMMARY_INPUT = 2 * HIDDEN + SERVICE_COUNT  # mean, maximum, service features
LOG_STD_MIN, LOG_STD_MAX = -4.0, 0.0

SHAPES: dict[str, tuple[int, ...]] = {
    "encode1.weight": (HIDDEN, FEATURE_COUNT),
    "encode1.bias": (HIDDEN,),
    "encode2.weight": (HIDDEN, HIDDEN),
    "encode2.bias": (HIDDEN,),
    "summary.weight": (HIDDEN, SUMMARY_INPUT),
    "summary.bias": (HIDDEN,),
    "gru.weight_ih_l0": (3 * HIDDEN, HIDDEN),
    "gru.weight_hh_l0": (3 * HIDDEN, HIDDEN),
    "gru.bias_ih_l0": (3 * HIDDEN,),
    "gru.bias_hh_l0": (3 * HIDDEN,),
    "decide1.weight": (HIDDEN, HIDDEN),
    "decide1.bias": (HIDDEN,),
    "decide2.weight": (2 * len(ACTIONS), HIDDEN),
    "decide2.bias": (2 * len(ACTIONS),),
}


class ParameterError(ValueError):
    """Parameters do not fit the network; the message names the array."""


def fresh_parameters(seed: int) -> dict[str, Float32]:
    """Uniform +-1/sqrt(fan_in) as torch does; the last layer 100 times smaller.

    A fresh network therefore acts near-neutrally, with a standard deviation of about exp(-1.8).
    """
    rng = np.random.default_rng(seed)
    parameters: dict[str, Float32] = {}
    for name, shape in SHAPES.items():
        layer = name.split(".")[0]
        fan_in = HIDDEN if layer == "gru" else SHAPES[f"{layer}.weight"][1]
        bound = 1.0 / np.sqrt(fan_in)
        parameters[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    parameters["decide2.weight"] *= np.float32(0.01)
    spreads = np.full(len(ACTIONS), np.arctanh(0.1))
    parameters["decide2.bias"] = np.concatenate([np.zeros(len(ACTIONS)), spreads]).astype(
        np.float32
    )
    return parameters


def checked(parameters: Parameters) -> dict[str, Float32]:
    """The arrays the network needs, as float32. Raises ParameterError on any that is unfit."""
    result: dict[str, Float32] = {}
    for name, shape in SHAPES.items():
        if name not in parameters:
            raise ParameterError(f"parameter {name} is missing")
        array = np.ascontiguousarray(parameters[name], dtype=np.float32)
        if array.shape != shape:
            raise ParameterError(f"parameter {name} has shape {array.shape}, expected {shape}")
        if not np.all(np.isfinite(array)):
            raise ParameterError(f"parameter {name} is not finite")
        result[name] = array
    return result


def _sigmoid(x: Float32) -> Float32:
    # By tanh: exp(-x) would overflow, and warn, for large negative x.
    result: Float32 = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1.0))
    return result


class ActorNetwork:
    """Parameters laid out for speed; immutable once built."""

    def __init__(self, parameters: Parameters) -> None:
        p = checked(parameters)
        self._encode1 = p["encode1.weight"].T.copy(), p["encode1.bias"]
        self._encode2 = p["encode2.weight"].T.copy(), p["encode2.bias"]
        self._summary = p["summary.weight"].T.copy(), p["summary.bias"]
        self._input = p["gru.weight_ih_l0"].T.copy(), p["gru.bias_ih_l0"]
        self._recur = p["gru.weight_hh_l0"].T.copy(), p["gru.bias_hh_l0"]
        self._decide1 = p["decide1.weight"].T.copy(), p["decide1.bias"]
        self._decide2 = p["decide2.weight"].T.copy(), p["decide2.bias"]

    def forward(
        self, features: Float32, service: Float32, hidden: Float32
    ) -> tuple[Float32, Float32, Float32]:
        """One step. features (N, F), service (S,), hidden (N, H), N >= 1.

        Returns mean (N, A), log_std (N, A) within [LOG_STD_MIN, LOG_STD_MAX], hidden (N, H).
        """
        x = np.maximum(features @ self._encode1[0] + self._encode1[1], 0.0)  # (N, H)
        x = np.maximum(x @ self._encode2[0] + self._encode2[1], 0.0)  # (N, H)
        shared = np.concatenate((x.mean(axis=0), x.max(axis=0), service))  # (2H + S,)
        x = x + (shared @ self._summary[0] + self._summary[1])  # (N, H)
        gates_in = x @ self._input[0] + self._input[1]  # (N, 3H)
        gates_h = hidden @ self._recur[0] + self._recur[1]  # (N, 3H)
        both = _sigmoid(gates_in[:, : 2 * HIDDEN] + gates_h[:, : 2 * HIDDEN])
        reset, update = both[:, :HIDDEN], both[:, HIDDEN:]
        new = np.tanh(gates_in[:, 2 * HIDDEN :] + reset * gates_h[:, 2 * HIDDEN :])
        hidden = (1.0 - update) * new + update * hidden  # (N, H)
        y = np.maximum((hidden + x) @ self._decide1[0] + self._decide1[1], 0.0)  # (N, H)
        out = y @ self._decide2[0] + self._decide2[1]  # (N, 2A)
        mean, spread = out[:, : len(ACTIONS)], out[:, len(ACTIONS) :]
        log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (np.tanh(spread) + 1.0)
        return mean, log_std.astype(np.float32), hidden.astype(np.float32)
