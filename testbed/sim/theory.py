"""What queueing theory says of cases that it can solve, as checks of the simulator.

Lives here: closed formulas, and the two-server Markov chain of App. A of the Markov-potential-game
paper, solved exactly. Never here: simulation, plots. Rates are in 1/s, times in s.
Source of the formulas: Harchol-Balter, "Performance Modeling and Design of Computer Systems"
(2013): M/M/1 ch. 13, M/M/c ch. 14, M/G/1 ch. 23, processor sharing ch. 30.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class UnstableError(ValueError):
    """More work comes than can be done: there is no stationary mean."""


def _load(rate: float, mean_s: float, cpus: int = 1) -> float:
    load = rate * mean_s / cpus
    if not 0.0 <= load < 1.0:
        raise UnstableError(f"a load of {load:g} has no stationary mean")
    return load


def mm1_response_s(rate: float, mean_s: float) -> float:
    """Mean response of M/M/1, first come first served."""
    return mean_s / (1.0 - _load(rate, mean_s))


def mmc_response_s(rate: float, mean_s: float, cpus: int) -> float:
    """Mean response of M/M/c, first come first served, by Erlang's C formula."""
    load = _load(rate, mean_s, cpus)
    blocked = 1.0
    for busy in range(1, cpus + 1):
        blocked = rate * mean_s * blocked / (busy + rate * mean_s * blocked)
    waits = blocked / (1.0 - load * (1.0 - blocked))
    return mean_s + waits * mean_s / (cpus * (1.0 - load))


def mg1_ps_response_s(rate: float, mean_s: float) -> float:
    """Mean response of M/G/1 processor sharing: of the sizes only their mean counts."""
    return mean_s / (1.0 - _load(rate, mean_s))


def mg1_response_s(rate: float, mean_s: float, cv: float) -> float:
    """Mean response of M/G/1, first come first served (Pollaczek and Khinchine)."""
    load = _load(rate, mean_s)
    return mean_s + load / (1.0 - load) * 0.5 * (1.0 + cv * cv) * mean_s


def lossy_response_s(rate: float, mean_s: float, places: int) -> tuple[float, float]:
    """(mean response of those accepted, share rejected) of M/M/1 with room for `places`."""
    chance = (rate * mean_s) ** np.arange(places + 1.0)
    chance /= chance.sum()
    accepted = rate * (1.0 - chance[-1])
    return float(np.arange(places + 1) @ chance / accepted), float(chance[-1])


Split = Callable[[NDArray[np.int64], NDArray[np.int64], Floats], Floats]
"""Queues (S,) of both servers, weights (2,): (S,) share of the flows seen that the first gets."""


def wcmp(first: NDArray[np.int64], second: NDArray[np.int64], weight: Floats) -> Floats:
    return np.full(len(first), weight[0] / weight.sum())


def lsq(first: NDArray[np.int64], second: NDArray[np.int64], weight: Floats) -> Floats:
    return 0.5 * (1.0 + np.sign(second - first))


def sed(first: NDArray[np.int64], second: NDArray[np.int64], weight: Floats) -> Floats:
    """Ties as `lbd` breaks them: q + 1 is taken a random hair larger, and a hair weighs less at the
    server with the larger weight, which so wins more than half of the ties."""
    ahead = (second + 1) * weight[0] - (first + 1) * weight[1]
    likely = 1.0 - 0.5 * weight.min() / weight.max()
    tie = likely if weight[0] >= weight[1] else 1.0 - likely
    return np.where(ahead == 0.0, tie, 0.5 * (1.0 + np.sign(ahead)))


SPLITS: dict[str, Split] = {"wcmp": wcmp, "lsq": lsq, "sed": sed}


@dataclass(frozen=True)
class TwoServers:
    """The stationary distribution of two queues of up to Q flows behind one balancer.

    chance (Q + 1, Q + 1): of l_1, l_2 flows at the servers. speed (2,). rate: all arrivals.
    """

    chance: Floats
    speed: Floats
    rate: float

    @property
    def weighted_duration_s(self) -> float:
        """The paper's figure, E[sum of l_i / (l_1 + l_2) * l_i / v_i] where anything is there."""
        size = len(self.chance)
        first, second = np.indices((size, size)).astype(float)
        both = np.maximum(first + second, 1.0)
        value = (first**2 / self.speed[0] + second**2 / self.speed[1]) / both
        return float((self.chance * value).sum() / (1.0 - self.chance[0, 0]))

    @property
    def throughput(self) -> float:
        """Flows served a second."""
        busy = 1.0 - np.array([self.chance[0, :].sum(), self.chance[:, 0].sum()])
        return float(busy @ self.speed)

    @property
    def lost(self) -> float:
        """Share of the flows that found their server full."""
        return 1.0 - self.throughput / self.rate

    @property
    def response_s(self) -> float:
        """Mean response of the flows that are served, by Little's law."""
        first, second = np.indices(self.chance.shape)
        return float((self.chance * (first + second)).sum() / self.throughput)


def two_servers(
    split: Split,
    *,
    observed: float = 1.0,
    weight: tuple[float, float] = (2.0, 1.0),
    speed: tuple[float, float] = (2.0, 1.0),
    load: float = 1.0,
    places: int = 20,
) -> TwoServers:
    """The chain of App. A: Poisson arrivals, exponential service, at most `places` flows a server.

    The balancer distributes the share `observed` of the flows by `split`, which knows both queues;
    the rest falls on both servers alike, unseen. A flow that finds its server full is lost. load:
    of both speeds together, 1 in the paper. Solves (Q + 1)^2 linear equations.
    """
    if not (0.0 <= observed <= 1.0 and load > 0.0 and places >= 1):
        raise ValueError(f"no such chain: observed {observed}, load {load}, places {places}")
    speeds, weights = np.array(speed), np.array(weight)
    rate = load * speeds.sum()
    size = places + 1
    first, second = (axis.ravel() for axis in np.indices((size, size)))
    share = observed * split(first, second, weights) + (1.0 - observed) * 0.5
    state = np.arange(size * size)
    generator = np.zeros((size * size, size * size))
    for allowed, step, pace in (
        (first < places, size, rate * share),
        (second < places, 1, rate * (1.0 - share)),
        (first > 0, -size, np.full(len(state), speeds[0])),
        (second > 0, -1, np.full(len(state), speeds[1])),
    ):
        at = state[allowed]
        generator[at, at + step] += pace[allowed]
        generator[at, at] -= pace[allowed]
    # One balance equation follows from the others; in its place the sum of the chances.
    equations = generator.T
    equations[-1] = 1.0
    right = np.zeros(len(state))
    right[-1] = 1.0
    chance = np.linalg.solve(equations, right)
    if not math.isclose(chance.sum(), 1.0, rel_tol=1e-9) or chance.min() < -1e-9:
        raise ArithmeticError("the balance equations have no proper solution")
    return TwoServers(chance.reshape(size, size), speeds, float(rate))
