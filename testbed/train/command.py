"""`python -m testbed train`: the recipe of the shipped policy, from nothing to a checkpoint.

Lives here: the order of the stages, what is kept of each so that a cut run goes on. Never here: a
stage's work.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich.progress import track
from safetensors.numpy import load_file, save_file

from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.trust import Envelope
from testbed.train.distribution import scenario
from testbed.train.imitate import Example, Settings, train
from testbed.train.rollouts import Sequence as Seen
from testbed.train.rollouts import holding, record
from testbed.train.tables import Table, search
from testbed.train.validate import Score, score

Float32 = NDArray[np.float32]

VALIDATION_FROM = 100_000
"""Scenarios from this number on are never trained on."""


class Recipe(BaseModel):
    """What `--config` holds. rounds: of imitation; each sees what the last one's policy saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: int = 400
    validation: int = 60
    table_seeds: int = 2
    rounds: int = 3
    imitate: Settings = Settings()
    seed: int = 0


@dataclass(frozen=True)
class Store:
    """Where a run keeps what it has; each file is written whole or not at all."""

    folder: Path

    def table(self, number: int) -> Path:
        return self.folder / "tables" / f"{number}.npz"

    def actor(self, round_number: int) -> Path:
        return self.folder / f"round-{round_number}.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="the recipe, a YAML file")
    parser.add_argument("--out", type=Path, default=Path("report/train"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())


def run(args: argparse.Namespace) -> int:
    recipe = Recipe(**(yaml.safe_load(args.config.read_text()) or {}))
    store = Store(args.out)
    (args.out / "tables").mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as executor:
        tables = find_tables(recipe, store, executor)
        numbers = range(VALIDATION_FROM, VALIDATION_FROM + recipe.validation)
        scores = {spec: score(spec, numbers, executor) for spec in ("ewma", "ewma:1500")}
        for name, found in scores.items():
            print(f"{name}: {found.log_cost:+.4f} +- {found.error:.4f}", flush=True)
        seen: list[Example] = []
        parameters: dict[str, Float32] | None = None
        for number in range(recipe.rounds):
            seen += roll(recipe, tables, parameters, number, executor)
            parameters = imitate(recipe, store, seen, parameters, number)
            found = score(parameters, numbers, executor)
            scores[f"round-{number}"] = found
            print(f"round {number}: {found.log_cost:+.4f} +- {found.error:.4f}", flush=True)
    best = min(range(recipe.rounds), key=lambda number: scores[f"round-{number}"].log_cost)
    card = describe(recipe, scores, best, time.monotonic() - started_s)
    trained = envelope([example.seen for example in seen]).document()
    arrays = {f"actor.{name}": array for name, array in load_file(store.actor(best)).items()}
    checkpoint.save(
        checkpoint.Saved(arrays, {"card": card, "trained": trained}),
        args.out / "policy.safetensors",
    )
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return 0


def find_tables(recipe: Recipe, store: Store, executor: Executor) -> dict[int, Table]:
    """A table a training scenario, from the store or searched for."""
    missing = [n for n in range(recipe.scenarios) if not store.table(n).exists()]
    find = partial(_search_and_keep, store, recipe.table_seeds)
    for _ in track(executor.map(find, missing), "tables", total=len(missing)):
        pass
    tables: dict[int, Table] = {}
    for number in range(recipe.scenarios):
        with np.load(store.table(number)) as kept:
            fields = {name: kept[name] for name in kept.files}
        tables[number] = Table(**{**fields, "reference": float(fields["reference"])})
    return tables


def _search_and_keep(store: Store, seeds: int, number: int) -> None:
    path = store.table(number)
    part = path.with_suffix(".part.npz")
    np.savez(part, **asdict(search(scenario(number), seeds)))
    part.rename(path)


def roll(
    recipe: Recipe,
    tables: dict[int, Table],
    parameters: dict[str, Float32] | None,
    round_number: int,
    executor: Executor,
) -> list[Example]:
    """What agents see in the training scenarios: at first under constants drawn at random, later
    under the policy as it is."""
    work = partial(_roll_one, recipe.seed, round_number, parameters)
    found: list[Example] = []
    numbers = sorted(tables)
    for number, sequences in zip(
        numbers, track(executor.map(work, numbers), "rollouts", total=len(numbers)), strict=True
    ):
        found += [Example(sequence, tables[number]) for sequence in sequences]
    return found


def _roll_one(
    seed: int, round_number: int, parameters: dict[str, Float32] | None, number: int
) -> list:  # type: ignore[type-arg]
    rng = np.random.default_rng([seed, round_number, number])
    if parameters is None:
        parameters = holding(float(rng.uniform(-0.5, 0.9)), float(rng.uniform(-1.0, 1.0)))
    return record(scenario(number), parameters, seed=1000 + round_number, stochastic=True)


def imitate(
    recipe: Recipe,
    store: Store,
    examples: list[Example],
    parameters: dict[str, Float32] | None,
    round_number: int,
) -> dict[str, Float32]:
    """One round of training, from the round before; from the store if it is there."""
    path = store.actor(round_number)
    if path.exists():
        return load_file(path)
    losses: list[float] = []
    begin = parameters or fresh_parameters(recipe.seed)

    def report(update: int, loss: float) -> None:
        losses.append(loss)
        if update % 100 == 99:
            print(f"  update {update + 1}: {np.mean(losses[-100:]):+.4f}", flush=True)

    found = train(examples, recipe.imitate, begin, report)
    save_file(found, path)
    return found


def envelope(seen: Sequence[Seen], tail: float = 0.001) -> Envelope:
    """The range of each input over all rollouts, but for a share of `tail` at either end."""
    features = np.concatenate([part.features.reshape(-1, part.features.shape[-1]) for part in seen])
    service = np.concatenate([part.service for part in seen])
    low, high = np.quantile(features, (tail, 1.0 - tail), axis=0)
    service_low, service_high = np.quantile(service, (tail, 1.0 - tail), axis=0)
    return Envelope(low, high, service_low, service_high)


def describe(
    recipe: Recipe, scores: dict[str, Score], best: int, took_s: float
) -> dict[str, object]:
    """What led to the policy and what validation said: it is written into the policy's header."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "best_round": best,
        "took_s": round(took_s),
        "validation": {name: asdict(found) for name, found in scores.items()},
    }
