"""What a privileged search finds: the cost of a scenario as a function of three constants.

Lives here: the grid, the search, and the table it leaves. The search may try a scenario again and
again with the same flows, which no policy can; the network then has to guess the best place of the
table from what it sees. Never here: networks.

The constants are those that an agent decides: b, added to q; the memory of L, in flows; and kappa,
the exponent in g_j = v_j^kappa of each server's true speed a job, v_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.averages import MEMORIES_FLOWS
from agent.settings import PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.policies import REFERENCE, Rule, rule
from testbed.sim.run import Result, Run, simulate
from testbed.sim.scenario import Scenario
from testbed.sim.workload import Workload, draw_workload

Floats = NDArray[np.float64]

OFFSETS_U: Final = (-0.5, -0.2, 0.0, 0.25, 0.5, 0.75, 0.95)
MEMORIES_U: Final = (-1.0, -0.5, 0.0, 0.5, 1.0)
KAPPAS: Final = (-0.3, 0.0, 0.3, 0.6)

TAIL_SHARE: Final = 0.4
"""Of the cost, what the 99th percentile counts; the rest is the mean."""


@dataclass(frozen=True)
class Table:
    """Logarithms of cost over the neutral place's (b = 1, middle memory, kappa = 0).

    plane (OFFSETS, MEMORIES); kappa (KAPPAS,): beside the plane's best place, its own minus that.
    log_speed (servers,): log v_j, centred. reference: the same cost of SED that knows everything.
    """

    plane: Floats
    kappa: Floats
    log_speed: Floats
    reference: float


def cost(result: Result) -> float:
    """A run as one number, in logarithms: the mean and the 99th percentile of completion times."""
    tail = np.log(result.quantile_s(0.99))
    return float((1.0 - TAIL_SHARE) * np.log(result.mean_s) + TAIL_SHARE * tail)


def memory_flows(u: float) -> float:
    """The memory at the place u in [-1, 1], between MEMORIES_FLOWS in the logarithm."""
    places = np.linspace(-1.0, 1.0, len(MEMORIES_FLOWS))
    return float(np.exp(np.interp(u, places, np.log(MEMORIES_FLOWS))))


def constant(
    scenario: Scenario, offset_u: float, memory_u: float, kappa: float, seed: int, flows: Workload
) -> Result:
    """A run with the three held constant."""
    residual = Rule("constant", dispatch.RESIDUAL, memory_flows=memory_flows(memory_u))
    run = Run(scenario, residual, seed, flows)
    run.world.state.offset[:] = PolicySettings().offset_ratio ** offset_u
    run.world.state.weight[:] = np.exp(kappa * log_speed(scenario))
    return run.finish()


def log_speed(scenario: Scenario) -> Floats:
    """(servers,) log of the speed of one job alone on each server, centred."""
    logs = np.log([server.speed for server in scenario.backends])
    centred: Floats = logs - logs.mean()
    return centred


def search(scenario: Scenario, seeds: int) -> Table:
    """The table of a scenario, a mean over `seeds` paired workloads."""
    plane = np.zeros((len(OFFSETS_U), len(MEMORIES_U)))
    kappa = np.zeros(len(KAPPAS))
    reference = 0.0
    workloads = [draw_workload(scenario, seed) for seed in range(seeds)]
    for seed, flows in enumerate(workloads):
        for i, offset_u in enumerate(OFFSETS_U):
            for k, memory_u in enumerate(MEMORIES_U):
                plane[i, k] += cost(constant(scenario, offset_u, memory_u, 0.0, seed, flows))
        reference += cost(simulate(scenario, rule(REFERENCE), seed, flows))
    best_i, best_k = np.unravel_index(plane.argmin(), plane.shape)
    best = float(plane[best_i, best_k])
    hidden = bool(np.any(log_speed(scenario)))
    for at, exponent in enumerate(KAPPAS):
        if not hidden or exponent == 0.0:
            kappa[at] = best
            continue
        for seed, flows in enumerate(workloads):
            place = OFFSETS_U[best_i], MEMORIES_U[best_k]
            kappa[at] += cost(constant(scenario, *place, exponent, seed, flows))
    neutral = plane[OFFSETS_U.index(0.0), MEMORIES_U.index(0.0)]
    return Table(
        plane=(plane - neutral) / seeds,
        kappa=(kappa - best) / seeds,
        log_speed=log_speed(scenario),
        reference=float(reference - neutral) / seeds,
    )
