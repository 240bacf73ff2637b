"""`python -m testbed train`, also `python -m agent train`: the recipe of the shipped policy, from
nothing to a checkpoint.

Lives here: the order of the stages, what is kept of each so that a cut run goes on. Never here: a
stage's work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.progress import track
from safetensors.numpy import load_file, save_file

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.learn.networks import Actor
from agent.trust import Envelope
from config.load import ConfigError, load_as
from testbed.train import refine as refining
from testbed.train.distribution import digest, scenario
from testbed.train.imitate import Example, Settings, cost, train
from testbed.train.rollouts import Sequence as Seen
from testbed.train.rollouts import holding, record
from testbed.train.tables import Table, constant, search
from testbed.train.validate import Score, score

Float32 = NDArray[np.float32]

EXIT_USAGE = 2
VALIDATION_FROM = 100_000
"""Scenarios from this number on are never trained on."""


class Recipe(BaseModel):
    """What `--config` holds. rounds: of imitation; each sees what the last one's policy saw.

    held: of so many training scenarios one is left out of imitation, and watched on the screen.
    begin: a checkpoint to begin from; null means fresh parameters. refine: soft actor-critic from
    the best round, or from `begin` if there are no rounds; null leaves it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: int = 400
    validation: int = 60
    table_seeds: int = 2
    rounds: int = 3
    held: int = 10
    imitate: Settings = Settings()
    begin: Path | None = None
    refine: refining.Settings | None = None
    seed: int = 0


class OtherRecipeError(ValueError):
    """What a folder keeps was made by another recipe or from other scenarios."""


@dataclass(frozen=True)
class Store:
    """Where a run keeps what it has; each file is written whole or not at all."""

    folder: Path

    def table(self, number: int) -> Path:
        return self.folder / "tables" / f"{number}.npz"

    def actor(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number}.safetensors"

    @property
    def refined(self) -> Path:
        return self.folder / "refine.safetensors"

    def claim(self, recipe: Recipe) -> None:
        """The folder is this recipe's from now on. Raises OtherRecipeError if it is another's."""
        kept = self.folder / "recipe.json"
        content = {"recipe": recipe.model_dump(mode="json"), "distribution": digest()}
        if kept.exists():
            if json.loads(kept.read_text()) != content:
                raise OtherRecipeError(f"{self.folder} has parts of another recipe: see {kept}")
            return
        (self.folder / "tables").mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.rename(kept)

    def spent_s(self, more_s: float = 0.0) -> float:
        """Seconds that this recipe has taken, those of cut runs among them, with `more_s` added."""
        kept = self.folder / "spent_s"
        spent_s = (float(kept.read_text()) if kept.exists() else 0.0) + more_s
        kept.write_text(f"{spent_s:.1f}\n")
        return spent_s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="the recipe, a YAML file")
    parser.add_argument("--out", type=Path, default=Path("report/train"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())


def main(argv: Sequence[str]) -> int:
    """As a command of `python -m agent`, where an entry point names it."""
    parser = argparse.ArgumentParser(prog="lbd-agent train", description=__doc__.split("\n\n")[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    store = Store(args.out)
    try:
        recipe = load_as(Recipe, args.config)
        store.claim(recipe)
    except (ConfigError, OtherRecipeError) as error:
        print(f"train: {error}", file=sys.stderr)
        return EXIT_USAGE
    started_s = time.monotonic()
    try:
        arrays, meta = make(recipe, store, args.jobs)
    finally:
        took_s = store.spent_s(time.monotonic() - started_s)
    card = {**meta["card"], "took_s": round(took_s)}
    saved = checkpoint.Saved(arrays, {**meta, "card": card})
    checkpoint.save(saved, args.out / "policy.safetensors")
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return 0


def make(
    recipe: Recipe, store: Store, jobs: int
) -> tuple[dict[str, Float32], dict[str, dict[str, Any]]]:
    """All stages: the policy's arrays, and what its header says of it."""
    with ProcessPoolExecutor(jobs) as executor:
        tables = find_tables(recipe, store, executor) if recipe.rounds else {}
        numbers = range(VALIDATION_FROM, VALIDATION_FROM + recipe.validation)
        scores = {spec: score(spec, numbers, executor) for spec in ("ewma", "ewma:1500")}
        for name, found in scores.items():
            print(f"{name}: {found.log_cost:+.4f} +- {found.error:.4f}", flush=True)
        seen: list[Example] = []
        watched: list[Example] = []
        parameters: dict[str, Float32] | None = None
        for number in range(recipe.rounds):
            looks = look(recipe, tables, parameters, number, executor)
            for of, parts in looks.items():
                into = watched if of % recipe.held == recipe.held - 1 else seen
                into += examples(parts, tables[of])
            parameters = imitate(recipe, store, seen, watched, parameters, number)
            found = score(parameters, numbers, executor)
            scores[f"round-{number}"] = found
            print(f"round {number}: {found.log_cost:+.4f} +- {found.error:.4f}", flush=True)
        best = min(range(recipe.rounds), key=lambda n: scores[f"round-{n}"].log_cost, default=None)
        chosen = first_parameters(recipe) if best is None else load_file(store.actor(best))
        if recipe.refine is not None:
            outcome = practise(recipe, recipe.refine, store, chosen, numbers, executor)
            chosen = outcome.parameters
            scores |= {f"refine-{episode}": found for episode, found in outcome.scores.items()}
        trained = [example.seen for example in seen]
        if not trained:
            looks = look(recipe, range(recipe.scenarios), chosen, 0, executor)
            trained = [part for parts in looks.values() for part in parts]
    arrays = {f"actor.{name}": array for name, array in chosen.items()}
    card = describe(recipe, scores, best)
    return arrays, {"card": card, "trained": dict(envelope(trained).document())}


def find_tables(recipe: Recipe, store: Store, executor: Executor) -> dict[int, Table]:
    """A table a training scenario, from the store or searched for."""
    missing = [n for n in range(recipe.scenarios) if not store.table(n).exists()]
    find = partial(_search_and_keep, store, recipe.table_seeds)
    for _ in track(executor.map(find, missing), "tables", total=len(missing)):
        pass
    tables: dict[int, Table] = {}
    for number in range(recipe.scenarios):
        with np.load(store.table(number)) as kept:
            tables[number] = Table(**{name: kept[name] for name in kept.files})
    return tables


def _search_and_keep(store: Store, seeds: int, number: int) -> None:
    path = store.table(number)
    part = path.with_suffix(".part.npz")
    np.savez(part, **asdict(search(scenario(number), seeds)))
    part.rename(path)


def look(
    recipe: Recipe,
    numbers: Collection[int],
    parameters: dict[str, Float32] | None,
    round_number: int,
    executor: Executor,
) -> dict[int, list[Seen]]:
    """What agents see in the training scenarios, by number: at first under constants drawn at
    random, later under the policy as it is."""
    work = partial(_look_at, recipe, round_number, parameters)
    found = track(executor.map(work, numbers), "rollouts", total=len(numbers))
    return dict(zip(numbers, found, strict=True))


def examples(parts: Collection[Seen], table: Table) -> list[Example]:
    """Of one scenario: each sequence with what its time cost."""
    return [Example(seen, table.at(seen.at_s[-1]).astype(np.float32)) for seen in parts]


def _look_at(
    recipe: Recipe, round_number: int, parameters: dict[str, Float32] | None, number: int
) -> list[Seen]:
    rng = np.random.default_rng([recipe.seed, round_number, number])
    beside = None
    if parameters is None:
        place = tuple(rng.uniform((-0.6, -1.0, -1.0), (0.4, 1.0, 1.0)).tolist())
        parameters, beside = holding(*place), constant(place).controller
    seed, steps = 1000 + round_number, recipe.imitate.steps
    seen = record(scenario(number), parameters, seed, stochastic=True, beside=beside)
    return [piece for sequence in seen for piece in sequence.pieces(steps, rng)]


def imitate(
    recipe: Recipe,
    store: Store,
    examples: list[Example],
    watched: list[Example],
    parameters: dict[str, Float32] | None,
    round_number: int,
) -> dict[str, Float32]:
    """One round of training, from the round before; from the store if it is there."""
    path = store.actor(round_number)
    if path.exists():
        return load_file(path)
    losses: list[float] = []
    begin = parameters or first_parameters(recipe)

    def report(update: int, loss: float, actor: Actor) -> None:
        losses.append(loss)
        if update % 100 == 99:
            held = cost(actor, watched, recipe.imitate) if watched else np.nan
            lately = np.mean(losses[-100:])
            print(f"  update {update + 1}: {lately:+.4f}, left out {held:+.4f}", flush=True)

    found = train(examples, recipe.imitate, begin, report)
    part = path.with_suffix(".part")
    save_file(found, part)
    part.rename(path)
    return found


def first_parameters(recipe: Recipe) -> dict[str, Float32]:
    """Of the recipe's own file, or fresh ones."""
    if recipe.begin is None:
        return fresh_parameters(recipe.seed)
    return checkpoint.actor_of(checkpoint.load(recipe.begin), str(recipe.begin))


def practise(
    recipe: Recipe,
    settings: refining.Settings,
    store: Store,
    begin: dict[str, Float32],
    numbers: Sequence[int],
    executor: Executor,
) -> refining.Outcome:
    """Soft actor-critic from `begin`, watched on the screen and by TensorBoard."""

    def judge(parameters: refining.Parameters) -> Score:
        return score(parameters, numbers, executor)

    scenarios = {number: scenario(number) for number in range(recipe.scenarios)}
    with refining.Board(store.folder / "tensorboard") as board:
        return refining.refine(scenarios, begin, settings, store.refined, judge, board.show)


def envelope(seen: Sequence[Seen], tail: float = 0.001) -> Envelope:
    """The range of each input over all rollouts, but for a share of `tail` at either end."""
    features = np.concatenate([part.features.reshape(-1, part.features.shape[-1]) for part in seen])
    service = np.concatenate([part.service for part in seen])
    low, high = np.quantile(features, (tail, 1.0 - tail), axis=0)
    service_low, service_high = np.quantile(service, (tail, 1.0 - tail), axis=0)
    return Envelope(low, high, service_low, service_high)


def describe(recipe: Recipe, scores: dict[str, Score], best: int | None) -> dict[str, object]:
    """What led to the policy and what validation said: it is written into the policy's header."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "best_round": best,
        "validation": {name: asdict(found) for name, found in scores.items()},
    }
