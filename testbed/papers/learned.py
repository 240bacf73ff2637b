"""Table 3's learned rows: the papers' agents, trained on the papers' simulated service.

Lives here: which agents there are, their episodes, trainings that are kept, and the judging on the
same episodes as the other rows. Never here: networks and learning (`testbed.papers.distr_lb`), what
is observed (`testbed.papers.distr_features`), how rows are shown.

A training is written to the report when it has been judged, under a digest of its settings; one
that is there is not done again, so a command that was cut goes on where it was. Who changes the
code takes another folder. A trained agent is judged by the mean of its policy, without exploring.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from testbed.papers import distr_lb
from testbed.papers.distr_features import see
from testbed.papers.distr_lb import REWARDS, Episode, Learner, levels
from testbed.papers.table3 import APPLICATIONS, scenario
from testbed.sim.compiled import dispatch
from testbed.sim.policies import Rule, rule
from testbed.sim.run import Run, simulate
from testbed.sim.workload import draw_workload
from testbed.sim.world import World
from testbed.stats import Interval, ratio_interval

STEP_S = 0.5
EPISODES = 500
"""Of the paper's simulation."""
TRAINED_FROM = 1_000_000
"""Seeds of training episodes; those of the table begin at 0."""


@dataclass(frozen=True)
class Method:
    """One of the papers' agents. keep: of l_j of the step before, [RLB] Eq. 18."""

    name: str
    reward: str
    recurrent: bool
    keep: float = 0.0


METHODS = (
    Method("Distr-LB, VBF", "VBF", True),
    Method("Distr-LB, VBF+logVBF", "VBF+logVBF", True),
    Method("RLB-SAC, Jain", "Jain", False, keep=0.1),
    Method("RLB-SAC, G", "G", False, keep=0.1),
)
UNTRAINED = "Distr-LB, untrained"
PLAIN = ("oracle", "sed-true", "lsq", "ewma", "agent")


class Balancer:
    """One of the papers' agents in a simulated balancer; what it saw and did is kept."""

    period_s = STEP_S

    def __init__(self, method: Method, learner: Learner, number: int, explore: bool) -> None:
        self._method, self._learner, self._number = method, learner, number
        self._explore = explore
        self._hidden = learner.actors.empty(1)
        self._weights = np.ones(learner.servers)
        self._duration_s: NDArray[np.float64] | None = None
        self._x: list[NDArray[np.float32]] = []
        self._u: list[NDArray[np.float32]] = []
        self._rewards: list[float] = []

    def step(self, world: World, balancer: int) -> None:
        snapshot = world.snapshot(balancer)
        seen = see(snapshot, self._learner.servers)
        self._reward(seen.duration_s)
        x = np.concatenate((seen.observation, self._weights.astype(np.float32)))
        u, self._hidden = self._learner.act(self._number, x, self._hidden, self._explore)
        self._weights = levels(u)
        world.set_weights(balancer, snapshot.identity, self._weights)
        self._x.append(x)
        self._u.append(u)

    def _reward(self, duration_s: NDArray[np.float64]) -> None:
        """Of the action before, by what is seen now."""
        before, self._duration_s = self._duration_s, duration_s
        if before is not None:
            smooth_s = self._method.keep * before + (1.0 - self._method.keep) * duration_s
            self._rewards.append(REWARDS[self._method.reward](smooth_s))

    def episode(self) -> Episode:
        rewards = np.array([*self._rewards, 0.0], np.float32)
        return Episode(np.stack(self._x), np.stack(self._u), rewards)


@dataclass(frozen=True)
class Training:
    """What comes of one: its own episodes, then those of the table.

    mean_s, reward: (episodes,) of its training; judged_s: (seeds,) means of the table's episodes.
    """

    settings: dict[str, Any]
    mean_s: list[float]
    reward: list[float]
    judged_s: list[float]
    cpu_s: float


@dataclass(frozen=True)
class Row:
    """A policy's means over an application's episodes; a learned one's over its seeds as well.

    ratio: to the oracle's mean on the same episodes. seeds_ratio: of each training seed alone.
    episodes: of training; 0 for what did not learn here. curve_s (episodes,): mean completion time
    of each training episode, over the seeds.
    """

    policy: str
    application: str
    mean_s: float
    ratio: Interval
    seeds_ratio: tuple[float, ...] = ()
    episodes: int = 0
    curve_s: tuple[float, ...] = ()


def settings_of(
    method: Method, application: str, seeds: int, episodes: int, seed: int
) -> dict[str, Any]:
    """All that decides what comes of a training, the learner's constants among it."""
    constants = {
        name.lower(): value
        for name, value in vars(distr_lb).items()
        if name.isupper() and isinstance(value, (int, float))
    }
    return {
        **asdict(method),
        "application": application,
        "judged": seeds,
        "episodes": episodes,
        "seed": seed,
        "step_s": STEP_S,
        "trained_from": TRAINED_FROM,
        **constants,
    }


def kept_at(report: Path, settings: dict[str, Any]) -> Path:
    """The file of a training with these settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return report / "learned" / f"{digest[:16]}.json"


def train(
    method: Method, application: str, episodes: int, seed: int
) -> tuple[Learner, list[float], list[float]]:
    """The learner after `episodes`, and of each of them the mean time in s and the mean reward."""
    of = scenario(application)
    learner = Learner(of.balancers, len(of.backends), method.recurrent, seed)
    means, rewards = [], []
    for number in range(episodes):
        run = Run(of, _rule(method, learner, True), TRAINED_FROM + 10_000 * seed + number)
        means.append(run.finish().mean_s)
        played = [
            one.episode() for _, one in sorted(run.controllers.items()) if isinstance(one, Balancer)
        ]
        learner.learn(played)
        rewards.append(float(np.mean([one.reward[:-1].mean() for one in played])))
    return learner, means, rewards


def judged(candidate: Rule, application: str, seeds: int) -> list[float]:
    """(seeds,) the means of its episodes."""
    of = scenario(application)
    return [simulate(of, candidate, seed, draw_workload(of, seed)).mean_s for seed in range(seeds)]


def trained(
    report: Path, method: Method, application: str, seeds: int, episodes: int, seed: int
) -> Training:
    """A training from the report, or done now and put there."""
    settings = settings_of(method, application, seeds, episodes, seed)
    path = kept_at(report, settings)
    if path.exists():
        return Training(**json.loads(path.read_text()))
    torch.set_num_threads(1)
    begun_s = time.process_time()
    learner, means, rewards = train(method, application, episodes, seed)
    times = judged(_rule(method, learner, False), application, seeds)
    done = Training(settings, means, rewards, times, time.process_time() - begun_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: what a cut leaves must not look like a training.
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(done)))
    part.rename(path)
    return done


def run(
    report: Path,
    seeds: int,
    trainings: int,
    episodes: int,
    applications: Sequence[str] = tuple(APPLICATIONS),
    jobs: int = 1,
) -> Iterator[Row]:
    """Rules, the shipped policy and every method, trained `trainings` times an application."""
    with ProcessPoolExecutor(jobs) as pool:
        plain = {
            (name, application): pool.submit(judged_by_name, name, application, seeds)
            for application in applications
            for name in PLAIN
        }

        def begin(method: Method, application: str, length: int) -> list[Future[Training]]:
            return [
                pool.submit(trained, report, method, application, seeds, length, seed)
                for seed in range(trainings)
            ]

        fresh = {application: begin(METHODS[0], application, 0) for application in applications}
        learned = {
            (method, application): begin(method, application, episodes)
            for method in METHODS
            for application in applications
        }
        for application in applications:
            oracle = plain["oracle", application].result()
            for name in PLAIN:
                yield _row(name, application, [plain[name, application].result()], oracle)
            untrained = [one.result() for one in fresh[application]]
            yield _row(UNTRAINED, application, [one.judged_s for one in untrained], oracle)
        for (method, application), futures in learned.items():
            oracle = plain["oracle", application].result()
            done = [one.result() for one in futures]
            yield _row(method.name, application, [one.judged_s for one in done], oracle, done)


def judged_by_name(name: str, application: str, seeds: int) -> list[float]:
    return judged(rule(name), application, seeds)


def _rule(method: Method, learner: Learner, explore: bool) -> Rule:
    """Shortest expected delay, q + 1 over the weight, with the weights of the method's agents."""

    def make(world: World, balancer: int, seed: int) -> Balancer:
        return Balancer(method, learner, balancer, explore)

    return Rule(method.name, dispatch.SED, controller=make)


def _row(
    name: str,
    application: str,
    times: list[list[float]],
    oracle: list[float],
    done: Sequence[Training] = (),
) -> Row:
    means = np.array(times)
    pooled = means.mean(axis=0)
    curves = np.array([one.mean_s for one in done])
    return Row(
        name,
        application,
        float(pooled.mean()),
        ratio_interval(pooled, oracle, seed=0),
        tuple(float(one.mean() / np.mean(oracle)) for one in means) if done else (),
        len(done[0].mean_s) if done else 0,
        tuple(curves.mean(axis=0)) if done else (),
    )
