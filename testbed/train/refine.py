"""Soft actor-critic in the simulator, from given parameters: the recipe's optional last stage.

Lives here: which scenario comes when, checkpoints, what is kept. Never here: an episode
(`practice`), losses (`agent.learn.sac`), what a policy's score is (`validate`).

A cut run goes on from its last checkpoint: networks, optimisers, generators and counters are in it,
the replays are not and fill again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from agent.learn import checkpoint
from agent.learn.sac import Learner
from agent.learn.state import capture, restore
from agent.settings import AgentSettings, LearnSettings, gentle
from testbed.load.sizes import Law
from testbed.sim.scenario import Scenario
from testbed.train.practice import Episode, Fleet, shared_learner
from testbed.train.validate import Score

Float32 = NDArray[np.float32]
Parameters = Mapping[str, Float32]

BEST = "best."


@dataclass(frozen=True)
class Settings:
    """episodes of `episode_s` each, judged every `judge_every` of them.

    easy_share: of the scenarios, the easiest, that the first episode draws from; the share grows to
    all of them over the first `easy_until` of the episodes. late_s: from a snapshot to its weights,
    at most; drawn anew each episode. learn: by default gentle, with few updates a step since every
    balancer's steps come.
    """

    episodes: int = 200
    episode_s: float = 60.0
    judge_every: int = 25
    easy_share: float = 0.25
    easy_until: float = 0.5
    late_s: float = 0.1
    period_s: float = 0.25
    reward: str = "VBF+logVBF"
    learn: LearnSettings = field(
        default_factory=lambda: gentle(LearnSettings(updates_per_step=0.1))
    )


@dataclass(frozen=True)
class Outcome:
    """parameters: the best of those judged, the given ones among them; last: at the end, whatever
    their score; scores by episode."""

    parameters: dict[str, Float32]
    last: dict[str, Float32]
    scores: dict[int, Score]


def difficulty(scenario: Scenario) -> int:
    """How many of the things that make a scenario hard it has."""
    sizes = [size for app in scenario.applications for _, size in app.stages]
    drawn = (Law.LOGNORMAL, Law.HYPEREXPONENTIAL, Law.PARETO)
    tails = any(size.heavy_share > 0 or (size.law in drawn and size.cv > 1.5) for size in sizes)
    arrivals = scenario.arrivals
    uneven = arrivals.burst_ratio > 1 or bool(arrivals.profile) or arrivals.trace is not None
    loaded = arrivals.load is not None and arrivals.load > 0.9
    hard = (scenario.balancers > 2, tails, uneven, loaded, bool(scenario.events))
    return sum(hard)


def eligible(order: Sequence[int], episode: int, settings: Settings) -> Sequence[int]:
    """Of scenarios in order of difficulty, those that `episode` may draw from."""
    grown = min(episode / max(settings.easy_until * settings.episodes, 1e-9), 1.0)
    share = settings.easy_share + (1.0 - settings.easy_share) * grown
    return order[: max(1, round(share * len(order)))]


def shortened(scenario: Scenario, duration_s: float) -> Scenario:
    """Its first `duration_s`, all of it judged, without what would have happened later."""
    duration_s = min(duration_s, scenario.duration_s)
    events = tuple(event for event in scenario.events if event.at_s < duration_s)
    changes = {"duration_s": duration_s, "warmup_s": 0.0, "events": events}
    return scenario.model_copy(update=changes)


def refine(
    scenarios: Mapping[int, Scenario],
    begin: Parameters,
    settings: Settings,
    path: Path,
    judge: Callable[[Parameters], Score],
    report: Callable[[int, Episode | None, Score | None], None],
) -> Outcome:
    """Learn on `scenarios`, from `begin` or from the checkpoint at `path` if there is one.

    report(episode, what came of it, its score): either may be None. Raises CheckpointError for a
    checkpoint that does not fit.
    """
    torch.set_num_threads(1)
    learner = shared_learner(settings.learn)
    done, best, scores = 0, dict(begin), dict[int, Score]()
    if path.exists():
        saved = checkpoint.load(path)
        restore(learner, saved)
        done = int(saved.meta["episode"])
        scores = {int(at): Score(**score) for at, score in saved.meta["scores"].items()}
        best = {
            name.removeprefix(BEST): array
            for name, array in saved.arrays.items()
            if name.startswith(BEST)
        }
    else:
        learner.load_actor(begin)
        scores[0] = judge(begin)
        report(0, None, scores[0])
    fleet = Fleet(learner, AgentSettings(reward=settings.reward), settings.period_s)
    order = sorted(scenarios, key=lambda number: (difficulty(scenarios[number]), number))
    for episode in range(done, settings.episodes):
        rng = np.random.default_rng([settings.learn.seed, episode])
        number = int(rng.choice(eligible(order, episode, settings)))
        of = shortened(scenarios[number], settings.episode_s)
        seed = int(rng.integers(1 << 31))
        came = fleet.practise(of, seed, float(rng.uniform(0.0, settings.late_s)))
        ended = episode + 1
        if ended % settings.judge_every and ended != settings.episodes:
            report(ended, came, None)
            continue
        parameters = learner.actor_arrays()
        score = judge(parameters)
        if score.log_cost < min(before.log_cost for before in scores.values()):
            best = parameters
        scores[ended] = score
        _keep(path, learner, best, ended, scores)
        report(ended, came, score)
    return Outcome(best, learner.actor_arrays(), scores)


def _keep(
    path: Path, learner: Learner, best: Parameters, episode: int, scores: Mapping[int, Score]
) -> None:
    state = capture(learner)
    arrays = {**state.arrays, **{f"{BEST}{name}": array for name, array in best.items()}}
    meta = {
        **state.meta,
        "episode": episode,
        "scores": {at: asdict(score) for at, score in scores.items()},
    }
    checkpoint.save(checkpoint.Saved(arrays, meta), path)


class Board:
    """Progress as scalars for TensorBoard, under `folder`, and scores on the screen."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def show(self, episode: int, came: Episode | None, score: Score | None) -> None:
        found: dict[str, float] = {}
        if came is not None:
            found = {"episode/reward": came.reward, "episode/mean_s": came.mean_s}
            if came.losses is not None:
                losses = asdict(came.losses)
                found |= {f"learner/{name}": value for name, value in losses.items()}
        if score is not None:
            found["validation/log_cost"] = score.log_cost
            print(f"refine {episode}: {score.log_cost:+.4f} +- {score.error:.4f}", flush=True)
        for name, value in found.items():
            self._writer.add_scalar(name, value, episode)
