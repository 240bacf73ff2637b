"""The recipe as a command: what a cut run has is used again, and never for another recipe."""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sim_worlds import scenario

from agent.learn import checkpoint
from agent.trust import Envelope
from testbed.sim.scenario import Arrivals, Scenario, Servers
from testbed.train import command

pytestmark = pytest.mark.timeout(600)

RECIPE = """\
scenarios: 2
validation: 2
table_seeds: 1
rounds: 1
held: 2
imitate: {updates: 2, batch: 2, steps: 4, warm: 1}
"""


def place(number: int = 0) -> Scenario:
    return scenario(
        Servers(count=2), Servers(speed=3.0), arrivals=Arrivals(load=0.7), duration_s=30.0
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small scenarios, in this process: what is replaced here would not be there in another."""
    for module in ("command", "validate"):
        monkeypatch.setattr(f"testbed.train.{module}.scenario", place)
    monkeypatch.setattr(command, "ProcessPoolExecutor", ThreadPoolExecutor)


def run(folder: Path, recipe: str) -> int:
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return command.run(argparse.Namespace(config=path, out=folder / "out", jobs=1))


@pytest.mark.usefixtures("small")
def test_a_cut_run_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    assert run(tmp_path, RECIPE) == 0
    out = tmp_path / "out"
    first = checkpoint.load(out / "policy.safetensors")
    Envelope.of(first.meta["trained"])
    assert json.loads((out / "card.json").read_text()) == first.meta["card"]
    tables = {path: path.stat().st_mtime_ns for path in (out / "tables").iterdir()}
    assert len(tables) == 2
    for name in ("policy.safetensors", "card.json", "round-0.safetensors"):
        (out / name).unlink()
    (out / "spent_s").write_text("1000.0")
    assert run(tmp_path, RECIPE) == 0
    again = checkpoint.load(out / "policy.safetensors")
    assert {path: path.stat().st_mtime_ns for path in tables} == tables
    assert again.meta["card"]["took_s"] >= 1000
    assert first.arrays.keys() == again.arrays.keys()
    for name, array in first.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert not list(out.glob("**/*.part*"))


@pytest.mark.usefixtures("small")
def test_parts_of_another_recipe_are_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, RECIPE) == 0
    assert run(tmp_path, RECIPE.replace("held: 2", "held: 3")) == 2
    assert "parts of another recipe" in capsys.readouterr().err


def test_an_error_in_a_recipe_names_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, RECIPE + "rond: 3\n") == 2
    error = capsys.readouterr().err
    assert "recipe.yaml:7" in error
    assert "rond" in error
    assert not (tmp_path / "out").exists()
