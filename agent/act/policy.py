"""The policy while it runs: network, memory of each backend, exploration.

Lives here: hidden state and noise by identity, sampling, squashing.
Never here: torch, I/O, rewards; the clock is the observation's.
Upstream: `agent.observe`. Downstream: `agent.agent`.

State belongs to an identity, not to a row: it follows a backend through any order of rows, is zero
for one that appears and forgotten for one that goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.act.network import ActorNetwork, Parameters
from agent.act.weights import log_bound, score
from agent.carry import carry
from agent.observe import Observation
from agent.settings import ACTIONS, HIDDEN, PolicySettings
from shm.snapshot import Words

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


SMOOTHED: Final = 0.5
"""What is kept of the last action, a step, where the policy does not explore."""

_UNIT_ENTROPY_NATS: Final = 0.5 * math.log(2 * math.pi * math.e)  # of N(0, 1)


@dataclass(frozen=True)
class Action:
    """What the policy chose, rows in the observation's order.

    u (N, A) in (-1, 1), log_g (N,) centred, weights (N,), offset: what dispatch adds to q, the same
    for all backends; hidden (N, H) as it was before this step:
    what a learner must start from to repeat it. entropy_nats: of the Gaussian before the squash,
    mean over the backends; None where an action is held.
    """

    u: Float32
    log_g: Float64
    weights: Float64
    offset: float
    hidden: Float32
    entropy_nats: float | None = None


class Policy:
    """One service's policy. Not thread-safe: one step at a time."""

    def __init__(self, settings: PolicySettings, parameters: Parameters, seed: int = 0) -> None:
        self._settings = settings
        self._network = ActorNetwork(parameters)
        self._rng = np.random.default_rng(seed)
        self._identity = np.zeros(0, np.uint64)
        self._hidden = np.zeros((0, HIDDEN), np.float32)
        self._noise = np.zeros((0, len(ACTIONS)), np.float32)
        self._u = np.zeros((0, len(ACTIONS)), np.float32)
        self._last = self._u

    @property
    def settings(self) -> PolicySettings:
        return self._settings

    def load(self, parameters: Parameters) -> None:
        """Replace the network and keep the memory. Raises ParameterError and keeps the old one."""
        self._network = ActorNetwork(parameters)

    def forget(self) -> None:
        """Drop all memory: another region, where the same identities are other backends."""
        self._identity = self._identity[:0]
        self._hidden = self._hidden[:0]
        self._noise = self._noise[:0]
        self._u, self._last = self._u[:0], self._last[:0]

    def last_action(self, identity: Words) -> Float32:
        """The last action by identity (N, A), log g over its bound; 0 (neutral) if unknown."""
        return self._aligned(identity, self._last)

    def act(self, observation: Observation, stochastic: bool) -> Action:
        """One step for N >= 1 backends; advances the memory.

        Stochastic actions add noise of this policy's own generator, correlated over time; others
        are smoothed, so that no single step's inputs move the weights far.
        """
        identity = observation.identity
        hidden = self._aligned_hidden(identity)
        mean, log_std, after = self._network.forward(
            observation.features, observation.service, hidden
        )
        if stochastic:
            self._noise = self._next_noise(identity)
            u = np.tanh(mean + np.exp(log_std) * self._noise)
        else:
            self._noise = self._aligned(identity, self._noise)
            chosen = np.tanh(mean)
            u = chosen + np.float32(SMOOTHED) * (
                carry(identity, self._identity, self._u, chosen) - chosen
            )
        self._identity = identity
        self._hidden = after if self._settings.recurrent else np.zeros_like(after)
        entropy = float(log_std.mean()) + _UNIT_ENTROPY_NATS
        return self._action(u, observation, hidden, entropy)

    def hold(self, observation: Observation) -> Action:
        """Repeat the last action for the backends there are now; memory and noise stand still.

        A backend that is new has the mean of the others': b, memory and kappa are means over all.
        """
        identity = observation.identity
        hidden = self._aligned_hidden(identity)
        known = self._u[np.isin(self._identity, identity)]
        middle = known.mean(axis=0) if len(known) else np.zeros(len(ACTIONS), np.float32)
        missing = np.tile(middle, (identity.size, 1))
        u = carry(identity, self._identity, self._u, missing)
        self._noise = self._aligned(identity, self._noise)
        self._identity, self._hidden = identity, hidden
        return self._action(u, observation, hidden, None)

    def rest(self, observation: Observation) -> Action:
        """What `ewma` would do: g = 1, b = 1, the middle memory, kappa = 0. Memory keeps going."""
        identity = observation.identity
        u = np.zeros((identity.size, len(ACTIONS)), np.float32)
        u[:, ACTIONS.index("busy")] = -1.0
        return self._action(u, observation, self._aligned_hidden(identity), None)

    def _action(
        self, u: Float32, observation: Observation, hidden: Float32, entropy_nats: float | None
    ) -> Action:
        found = score(u, observation.latency_s, observation.busy, self._settings)
        self._u, self._last = u, u.copy()
        self._last[:, 0] = found.log_g / log_bound(self._settings)
        return Action(u, found.log_g, found.weights, found.offset, hidden, entropy_nats)

    def _aligned_hidden(self, identity: Words) -> Float32:
        missing = np.zeros((identity.size, HIDDEN), np.float32)
        return carry(identity, self._identity, self._hidden, missing)

    def _aligned(self, identity: Words, values: Float32) -> Float32:
        missing = np.zeros((identity.size, len(ACTIONS)), np.float32)
        return carry(identity, self._identity, values, missing)

    def _next_noise(self, identity: Words) -> Float32:
        """N(0, 1) (N, A), each correlated with its last; drawn in the order of identities."""
        shape = (identity.size, len(ACTIONS))
        drawn = np.empty(shape, np.float32)
        drawn[np.argsort(identity)] = self._rng.standard_normal(shape, np.float32)
        # A backend that is new starts at its own draw, which has variance 1 from the beginning.
        before = carry(identity, self._identity, self._noise, drawn)
        known = np.isin(identity, self._identity)
        rho = np.float32(self._settings.noise_correlation)
        mixed = rho * before + np.sqrt(np.float32(1.0) - rho * rho) * drawn
        noise: Float32 = np.where(known[:, None], mixed, drawn).astype(np.float32)
        return noise
