"""`python -m testbed ablate`: what each part of the policy is worth, on validation scenarios.

Lives here: the variants, and their paired differences. Never here: training, scores.

Three kinds. *Switched off*: the given policy with one part held still, not trained without it.
*Trained without*: short imitation with and without the GRU, the same examples and updates, from
fresh parameters. *Refined*: the given policy after a short soft actor-critic, as it ended.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.policies import SHIPPED
from agent.settings import ACTIONS, PolicySettings
from testbed.sim.policies import Rule, agent_rule
from testbed.stats import Interval, mean_interval
from testbed.train.command import VALIDATION_FROM, Recipe, Store, find_tables, look
from testbed.train.distribution import scenario
from testbed.train.imitate import Example, train
from testbed.train.imitate import Settings as Imitation
from testbed.train.refine import Settings as Refinement
from testbed.train.refine import refine
from testbed.train.validate import Score, costs

Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Parameters = Mapping[str, Float32]

EXAMPLES = 24
"""Training scenarios of the short imitation."""
IMITATION = Imitation(updates=120, batch=10, steps=60, warm=10)


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
    parser.add_argument("--out", type=Path, default=Path("report/ablate"), metavar="FOLDER")


def run(args: argparse.Namespace) -> int:
    if args.scenarios < 2:
        raise SystemExit("--scenarios: an interval needs 2 at least")
    torch.set_num_threads(1)
    numbers = range(VALIDATION_FROM, VALIDATION_FROM + args.scenarios)
    parameters = checkpoint.actor_of(checkpoint.load(args.policy), str(args.policy))
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[Difference] = []
    for difference in differences(parameters, numbers, args.seeds, args.episodes, args.out):
        found.append(difference)
        cost = difference.cost
        interval = f"{cost.estimate:+.4f} ({cost.low:+.4f} to {cost.high:+.4f})"
        print(f"{difference.variant}, against {difference.whole}: {interval}", flush=True)
        text = json.dumps([asdict(one) for one in found], indent=1)
        (args.out / "differences.json").write_text(text + "\n")
    return 0


def differences(
    parameters: Parameters, numbers: Sequence[int], seeds: int, episodes: int, store: Path
) -> Iterator[Difference]:
    """One after another; tables of the search are kept in `store`."""
    whole = judged(agent_rule("whole", parameters), numbers)
    for name, variant in switched_off(parameters).items():
        yield _difference(name, "the policy", [judged(variant, numbers)], [whole])
    if not seeds:
        return
    refined = [after(parameters, seed, episodes) for seed in range(seeds)]
    ended = [judged(agent_rule("refined", last), numbers) for last in refined]
    yield _difference(f"refined (seeds: {seeds})", "the policy", ended, [whole])
    examples = gathered(store)
    with_memory, without = (
        [judged(imitated(examples, seed, recurrent), numbers) for seed in range(seeds)]
        for recurrent in (True, False)
    )
    yield _difference(f"imitation without GRU (seeds: {seeds})", "with it", without, with_memory)


def switched_off(parameters: Parameters) -> dict[str, Rule]:
    """The policy with one of its parts held still."""
    return {
        "memory held at zero": agent_rule("", parameters, PolicySettings(recurrent=False)),
        "no offset": agent_rule("", parameters, PolicySettings(offset_ratio=1.0)),
        "no queues of the past": agent_rule("", parameters, PolicySettings(busy_most=0.0)),
        "middle memory": agent_rule("", silenced(parameters, "memory")),
        "no factor": agent_rule("", silenced(parameters, "factor")),
    }


def silenced(parameters: Parameters, action: str) -> dict[str, Float32]:
    """Parameters of a network that leaves one of ACTIONS neutral."""
    at = ACTIONS.index(action)
    quiet = {name: array.copy() for name, array in parameters.items()}
    quiet["decide2.weight"][at] = 0.0
    quiet["decide2.bias"][at] = 0.0
    return quiet


def after(parameters: Parameters, seed: int, episodes: int) -> dict[str, Float32]:
    """The policy refined; the last parameters and not the best, so that none need be judged."""
    usual = Refinement()
    settings = replace(
        usual, episodes=episodes, judge_every=episodes, learn=replace(usual.learn, seed=seed)
    )
    with tempfile.TemporaryDirectory() as folder:
        return refine(
            {number: scenario(number) for number in range(200)},
            parameters,
            settings,
            Path(folder) / "refine.safetensors",
            lambda _: Score(0.0, 0.0),
            lambda *_: None,
        ).last


def gathered(store: Path) -> list[Example]:
    """What is seen under constants in EXAMPLES scenarios, and their tables."""
    recipe = Recipe(scenarios=EXAMPLES, table_seeds=1)
    (store / "tables").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as executor:
        tables = find_tables(recipe, Store(store), executor)
        looks = look(recipe, tables, None, 0, executor)
    return [Example(part, tables[of]) for of, parts in looks.items() for part in parts]


def imitated(examples: Sequence[Example], seed: int, recurrent: bool) -> Rule:
    settings = replace(IMITATION, seed=seed, recurrent=recurrent)
    found = train(examples, settings, fresh_parameters(seed), lambda *_: None)
    return agent_rule("", found, PolicySettings(recurrent=recurrent))


def judged(candidate: Rule, numbers: Sequence[int]) -> Floats:
    """(scenarios,) logarithms of cost over the reference's."""
    return np.array([costs(candidate, number) for number in numbers])


def _difference(
    variant: str, whole: str, one: Sequence[Floats], other: Sequence[Floats]
) -> Difference:
    """Seeds are averaged within a scenario: the interval is over scenarios."""
    gap = np.mean(one, axis=0) - np.mean(other, axis=0)
    return Difference(variant, whole, mean_interval(gap))
