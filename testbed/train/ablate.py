"""`python -m testbed ablate`: what each part of the policy is worth, on validation scenarios.

Lives here: the variants, and their paired differences. Never here: training, scores.

Four kinds. *Switched off*: the given policy with one part held still, not trained without it.
*Trained without*: short imitation with and without the GRU, the same examples and updates, from
fresh parameters. *Refined*: the given policy after a short soft actor-critic, as it ended, with
each of the rewards. *Without imitation*: the same from fresh parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.policies import SHIPPED
from agent.rewards import REWARDS
from agent.settings import ACTIONS, LearnSettings, PolicySettings
from testbed.sim.policies import agent_rule
from testbed.stats import Interval, mean_interval
from testbed.train.command import VALIDATION_FROM, Recipe, Store, examples, find_tables, look
from testbed.train.distribution import scenario
from testbed.train.imitate import Example, train
from testbed.train.imitate import Settings as Imitation
from testbed.train.refine import Settings as Refinement
from testbed.train.refine import refine
from testbed.train.validate import Score, costs

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Parameters = Mapping[str, Float32]

EXAMPLES = 300
"""Training scenarios of the short imitation."""
IMITATION = Imitation(updates=300)


@dataclass(frozen=True)
class Candidate:
    """A policy to judge."""

    parameters: Parameters
    settings: PolicySettings = field(default_factory=PolicySettings)


@dataclass(frozen=True)
class Difference:
    """Of logarithms of cost: a variant's minus the whole's, over the scenarios, paired."""

    variant: str
    whole: str
    cost: Interval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", type=Path, default=SHIPPED, metavar="FILE")
    parser.add_argument("--scenarios", type=int, default=40, help="of validation; 2 at least")
    parser.add_argument("--seeds", type=int, default=3, help="of each training; 0 trains nothing")
    parser.add_argument("--episodes", type=int, default=100, help="of a refinement")
    parser.add_argument("--rewards", help="refinements by these alone, commas between")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("report/ablate"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    if args.scenarios < 2:
        raise SystemExit("--scenarios: an interval needs 2 at least")
    rewards = [name.strip() for name in args.rewards.split(",")] if args.rewards else []
    for name in rewards:
        if name not in REWARDS:
            raise SystemExit(f"--rewards: no reward {name!r}; known: {', '.join(REWARDS)}")
    if rewards and not args.seeds:
        raise SystemExit("--rewards: needs one of --seeds at least to train with")
    numbers = range(VALIDATION_FROM, VALIDATION_FROM + args.scenarios)
    parameters = checkpoint.actor_of(checkpoint.load(args.policy), str(args.policy))
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "differences.json"
    # What another command has compared stays.
    before = json.loads(kept.read_text()) if kept.exists() else []
    found = {(row["variant"], row["whole"]): row for row in before}
    with ProcessPoolExecutor(args.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        work = Work(parameters, numbers, args.seeds, args.episodes, args.out, pool)
        whole = [work.judged(Candidate(parameters))]
        for difference in refined(work, whole, rewards) if rewards else differences(work, whole):
            found[difference.variant, difference.whole] = asdict(difference)
            cost = difference.cost
            interval = f"{cost.estimate:+.4f} ({cost.low:+.4f} to {cost.high:+.4f})"
            print(f"{difference.variant}, against {difference.whole}: {interval}", flush=True)
            kept.write_text(json.dumps([*found.values()], indent=1) + "\n")
    return 0


@dataclass(frozen=True)
class Work:
    """What is to be compared, on which scenarios; tables of the search are kept in `store`."""

    parameters: Parameters
    numbers: Sequence[int]
    seeds: int
    episodes: int
    store: Path
    pool: Executor

    def judged(self, candidate: Candidate) -> Floats:
        """(scenarios,) logarithms of cost over the reference's."""
        return np.array(list(self.pool.map(partial(_cost, candidate), self.numbers)))

    def after(self, begin: str, reward: str) -> list[Floats]:
        """Costs of policies that a soft actor-critic has changed, one a seed."""
        learn = partial(_after, self.parameters, begin, reward, self.episodes)
        ended = list(self.pool.map(learn, range(self.seeds)))
        return [self.judged(Candidate(last)) for last in ended]

    def imitated(self, examples: Sequence[Example], recurrent: bool) -> list[Floats]:
        """Costs of policies that imitated the same examples, one a seed."""
        learn = partial(_imitated, examples, recurrent)
        found = list(self.pool.map(learn, range(self.seeds)))
        settings = PolicySettings(recurrent=recurrent)
        return [self.judged(Candidate(parameters, settings)) for parameters in found]


def differences(work: Work, whole: Sequence[Floats]) -> Iterator[Difference]:
    """One after another; whole: the costs of the policy itself."""
    for name, variant in switched_off(work.parameters).items():
        yield _difference(name, "the policy", [work.judged(variant)], whole)
    if not work.seeds:
        return
    seeds = f"(seeds: {work.seeds})"
    shown = gathered(work.store, work.pool)
    with_memory, without = (work.imitated(shown, recurrent) for recurrent in (True, False))
    yield _difference(f"imitation without GRU {seeds}", "with it", without, with_memory)
    ended = work.after("nothing", Refinement().reward)
    yield _difference(f"soft actor-critic alone {seeds}", "the policy", ended, whole)
    yield from refined(work, whole, REWARDS)


def refined(work: Work, whole: Sequence[Floats], rewards: Iterable[str]) -> Iterator[Difference]:
    """What soft actor-critic makes of the policy, reward by reward."""
    for reward in rewards:
        ended = work.after("policy", reward)
        name = f"refined by {reward} (seeds: {work.seeds})"
        yield _difference(name, "the policy", ended, whole)


def switched_off(parameters: Parameters) -> dict[str, Candidate]:
    """The policy with one of its parts held still."""
    return {
        "memory held at zero": Candidate(parameters, PolicySettings(recurrent=False)),
        "no offset": Candidate(parameters, PolicySettings(offset_ratio=1.0)),
        "no queues of the past": Candidate(parameters, PolicySettings(busy_most=0.0)),
        "middle memory": Candidate(silenced(parameters, "memory")),
        "no factor": Candidate(silenced(parameters, "factor")),
    }


def silenced(parameters: Parameters, action: str) -> dict[str, Float32]:
    """Parameters of a network that leaves one of ACTIONS neutral."""
    at = ACTIONS.index(action)
    quiet = {name: array.copy() for name, array in parameters.items()}
    quiet["decide2.weight"][at] = 0.0
    quiet["decide2.bias"][at] = 0.0
    return quiet


def gathered(store: Path, pool: Executor) -> list[Example]:
    """What is seen under constants in EXAMPLES scenarios, and their tables."""
    recipe = Recipe(scenarios=EXAMPLES, table_seeds=1, imitate=IMITATION)
    (store / "tables").mkdir(parents=True, exist_ok=True)
    tables = find_tables(recipe, Store(store), pool)
    looks = look(recipe, tables, None, 0, pool)
    return [example for of, parts in looks.items() for example in examples(parts, tables[of])]


def _cost(candidate: Candidate, number: int) -> float:
    return costs(agent_rule("candidate", candidate.parameters, candidate.settings), number)


def _after(
    parameters: Parameters, begin: str, reward: str, episodes: int, seed: int
) -> dict[str, Float32]:
    """The last parameters of a refinement and not its best, so that none need be judged."""
    usual = Refinement()
    learn = replace(usual.learn, seed=seed)
    if begin == "nothing":
        learn = LearnSettings(seed=seed, updates_per_step=usual.learn.updates_per_step)
    settings = replace(usual, episodes=episodes, judge_every=episodes, learn=learn, reward=reward)
    with tempfile.TemporaryDirectory() as folder:
        return refine(
            {number: scenario(number) for number in range(200)},
            fresh_parameters(seed) if begin == "nothing" else parameters,
            settings,
            Path(folder) / "refine.safetensors",
            lambda _: Score(0.0, 0.0),
            lambda *_: None,
        ).last


def _imitated(examples: Sequence[Example], recurrent: bool, seed: int) -> dict[str, Float32]:
    settings = replace(IMITATION, seed=seed, recurrent=recurrent)
    return train(examples, settings, fresh_parameters(seed), lambda *_: None)


def _difference(
    variant: str, whole: str, one: Sequence[Floats], other: Sequence[Floats]
) -> Difference:
    """Seeds are averaged within a scenario: the interval is over scenarios."""
    gap = np.mean(one, axis=0) - np.mean(other, axis=0)
    return Difference(variant, whole, mean_interval(gap))
