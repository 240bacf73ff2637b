"""Table 3's learned rows: the papers' agents, trained on the papers' simulated service.

Lives here: what the papers say of them, training, the same episodes as the other rows. Never here:
the learner (`agent.learn`), an episode (`testbed.train.practice`), how rows are shown.

From the papers: the reward, the step of 0.5 s, action levels 1.0, 1.2 … 2.0, q + 1 over the weight
and no other base, 10 updates an episode and balancer of 25 sequences, Table 9's rates and replay.
Otherwise: the network, the features, the share of the reward that each backend's critic learns, and
parameters that all balancers share are this project's; sequences are 2 + 8 steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from agent.settings import AgentSettings, LearnSettings, PolicySettings
from testbed.papers.table3 import APPLICATIONS, scenario
from testbed.sim.policies import Rule, agent_rule, rule
from testbed.sim.run import simulate
from testbed.sim.workload import draw_workload
from testbed.stats import Interval, ratio_interval
from testbed.train.practice import Fleet, shared_learner

STEP_S = 0.5
UPDATES_AN_EPISODE = 10
EPISODES = 500
"""Of the paper's simulation."""
TRAINED_FROM = 1_000_000
"""Seeds of training episodes; those of the table begin at 0."""


@dataclass(frozen=True)
class Method:
    """One of the papers' agents."""

    name: str
    reward: str
    recurrent: bool

    @property
    def policy(self) -> PolicySettings:
        return PolicySettings(
            base="none", decoding="levels", offset_ratio=1.0, recurrent=self.recurrent
        )

    def learn(self, seed: int) -> LearnSettings:
        """Table 9, simulation."""
        return LearnSettings(
            seed=seed,
            train_steps=8,
            burn_in_steps=2,
            batch_chunks=25,
            updates_per_step=UPDATES_AN_EPISODE * STEP_S / scenario("100% CPU").duration_s,
            actor_lr=3e-4,
            critic_lr=3e-4,
            temperature_lr=3e-4,
            replay_steps=3000,
            max_backends=8,
            recurrent=self.recurrent,
        )


METHODS = (
    Method("Distr-LB, VBF", "VBF", True),
    Method("Distr-LB, VBF+logVBF", "VBF+logVBF", True),
    Method("RLB-SAC, Jain", "Jain", False),
    Method("RLB-SAC, G", "G", False),
)
UNTRAINED = "untrained, base none"
PLAIN = ("oracle", "sed-true", "lsq", "ewma", "agent")


@dataclass(frozen=True)
class Row:
    """A policy's means over an application's episodes; a learned one's over its seeds as well.

    ratio: to the oracle's mean on the same episodes. seeds_ratio: of each training seed alone.
    episodes: of training, the least over the seeds; 0 for what did not learn here.
    """

    policy: str
    application: str
    mean_s: float
    ratio: Interval
    seeds_ratio: tuple[float, ...] = ()
    episodes: int = 0


def train(
    method: Method, application: str, seed: int, episodes: int, seconds: float
) -> tuple[Mapping[str, NDArray[np.float32]], int]:
    """Parameters after `episodes`, or as many as begin within `seconds` of CPU time."""
    torch.set_num_threads(1)
    learner = shared_learner(method.learn(seed))
    agent = AgentSettings(reward=method.reward, policy=method.policy)
    fleet, of = Fleet(learner, agent, STEP_S), scenario(application)
    until_s = time.process_time() + seconds
    done = 0
    while done < episodes and time.process_time() < until_s:
        fleet.practise(of, TRAINED_FROM + 10_000 * seed + done)
        done += 1
    return learner.actor_arrays(), done


def judged(candidate: Rule, application: str, seeds: int) -> NDArray[np.float64]:
    """(seeds,) the means of its episodes."""
    of = scenario(application)
    return np.array(
        [simulate(of, candidate, seed, draw_workload(of, seed)).mean_s for seed in range(seeds)]
    )


def judged_by_name(name: str, application: str, seeds: int) -> NDArray[np.float64]:
    return judged(rule(name), application, seeds)


def trained_and_judged(
    method: Method, application: str, seeds: int, episodes: int, seconds: float, seed: int
) -> tuple[NDArray[np.float64], int]:
    """(seeds,) means of the trained policy's episodes; how many episodes it was trained for."""
    parameters, done = train(method, application, seed, episodes, seconds)
    return judged(_frozen(method, parameters), application, seeds), done


def run(
    seeds: int,
    trainings: int,
    episodes: int,
    minutes: float,
    applications: Sequence[str] = tuple(APPLICATIONS),
    jobs: int = 1,
) -> Iterator[Row]:
    """Rules, the shipped policy and every method, trained `trainings` times an application.

    minutes: of CPU time for all training; each training has an equal part of them.
    """
    each_s = 60.0 * minutes / (len(METHODS) * trainings * len(applications))
    with ProcessPoolExecutor(jobs) as pool:
        plain, fresh, learned = {}, {}, {}
        for application in applications:
            for name in PLAIN:
                plain[application, name] = pool.submit(judged_by_name, name, application, seeds)
            fresh[application] = [
                pool.submit(trained_and_judged, METHODS[0], application, seeds, 0, 0.0, seed)
                for seed in range(trainings)
            ]
        for application, method in product(applications, METHODS):
            learned[application, method] = [
                pool.submit(trained_and_judged, method, application, seeds, episodes, each_s, seed)
                for seed in range(trainings)
            ]
        for application in applications:
            oracle = plain[application, "oracle"].result()
            for name in PLAIN:
                yield _row(name, application, [plain[application, name].result()], oracle, 0)
            untrained = [one.result()[0] for one in fresh[application]]
            yield _row(UNTRAINED, application, untrained, oracle, 0)
            for method in METHODS:
                found = [one.result() for one in learned[application, method]]
                least = min(done for _, done in found)
                yield _row(method.name, application, [means for means, _ in found], oracle, least)


def _frozen(method: Method, parameters: Mapping[str, NDArray[np.float32]]) -> Rule:
    return agent_rule(method.name, parameters, method.policy, STEP_S)


def _row(
    name: str,
    application: str,
    means: list[NDArray[np.float64]],
    oracle: NDArray[np.float64],
    episodes: int,
) -> Row:
    each = tuple(float(one.mean() / oracle.mean()) for one in means)
    pooled = np.mean(means, axis=0)
    return Row(
        name,
        application,
        float(pooled.mean()),
        ratio_interval(pooled, oracle, seed=0),
        each if episodes else (),
        episodes,
    )
