"""The ablation: each variant lacks its part and nothing else; the table over tiny scenarios."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sim_worlds import scenario

from agent.act.network import ActorNetwork, fresh_parameters
from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import ACTIONS, HIDDEN
from testbed import cli
from testbed.sim.policies import Rule, agent_rule
from testbed.sim.run import Run
from testbed.sim.scenario import Arrivals, Scenario, Servers
from testbed.train import ablate

pytestmark = pytest.mark.timeout(600)

RNG = np.random.default_rng(0)
SEEN = (
    RNG.normal(size=(5, FEATURE_COUNT)).astype(np.float32),
    RNG.normal(size=SERVICE_COUNT).astype(np.float32),
    RNG.normal(size=(5, HIDDEN)).astype(np.float32),
)


def loud() -> dict[str, np.ndarray]:
    """Parameters of a network that says much of everything."""
    parameters = fresh_parameters(0)
    parameters["decide2.weight"] = 4.0 * RNG.normal(size=parameters["decide2.weight"].shape).astype(
        np.float32
    )
    return parameters


def place(number: int = 0) -> Scenario:
    return scenario(
        Servers(count=2), Servers(speed=3.0), arrivals=Arrivals(load=0.7), duration_s=30.0
    )


def after(rule: Rule, steps_s: float = 10.0) -> Run:
    run = Run(place(), rule, 0)
    run.advance(steps_s)
    return run


def made(candidate: ablate.Candidate) -> Rule:
    return agent_rule("variant", candidate.parameters, candidate.settings)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_silenced_network_leaves_one_action_neutral(action: str) -> None:
    whole = loud()
    before, _, _ = ActorNetwork(whole).forward(*SEEN)
    quiet, _, _ = ActorNetwork(ablate.silenced(whole, action)).forward(*SEEN)
    at = ACTIONS.index(action)
    others = [index for index in range(len(ACTIONS)) if index != at]
    assert not quiet[:, at].any()
    assert np.array_equal(quiet[:, others], before[:, others])
    assert before[:, at].all()


def test_without_an_offset_it_stays_one() -> None:
    parameters = loud()
    whole = after(agent_rule("whole", parameters)).world.state
    variant = after(made(ablate.switched_off(parameters)["no offset"])).world.state
    assert np.any(whole.offset != 1.0)
    assert np.all(variant.offset == 1.0)


def test_the_variants_decide_otherwise() -> None:
    parameters = loud()
    whole = after(agent_rule("whole", parameters)).world.state.weight
    for name, variant in ablate.switched_off(parameters).items():
        if name != "no offset":
            assert not np.array_equal(after(made(variant)).world.state.weight, whole), name


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ablate", "command", "validate"):
        monkeypatch.setattr(f"testbed.train.{module}.scenario", place)
    monkeypatch.setattr(ablate, "EXAMPLES", 1)
    monkeypatch.setattr(ablate, "REWARDS", ["Jain"])
    monkeypatch.setattr(ablate, "IMITATION", replace(ablate.IMITATION, updates=2, batch=2))
    options = ["--scenarios", "2", "--seeds", "1", "--episodes", "1", "--out", str(tmp_path)]
    assert cli.main(["ablate", *options]) == 0
    rows = json.loads((tmp_path / "differences.json").read_text())
    assert [row["variant"] for row in rows] == [
        "memory held at zero",
        "no offset",
        "no queues of the past",
        "middle memory",
        "no factor",
        "imitation without GRU (seeds: 1)",
        "soft actor-critic alone (seeds: 1)",
        "refined by Jain (seeds: 1)",
    ]
    for row in rows:
        assert row["cost"]["low"] <= row["cost"]["estimate"] <= row["cost"]["high"]
    # A variant that acts as the whole does would be paired with itself.
    assert any(row["cost"]["estimate"] != 0.0 for row in rows)
    alone = ["--scenarios", "2", "--seeds", "1", "--episodes", "1", "--rewards", " Jain"]
    assert cli.main(["ablate", *alone, "--out", str(tmp_path / "alone")]) == 0
    again = json.loads((tmp_path / "alone" / "differences.json").read_text())
    assert again == rows[-1:], "one reward alone is the same refinement"
    assert cli.main(["ablate", *alone, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "differences.json").read_text()) == rows, "the others stay"


@pytest.mark.parametrize(
    ("rewards", "seeds", "said"), [("Jain,no", "1", "no reward 'no'"), ("Jain", "0", "--seeds")]
)
def test_refinements_that_cannot_be_are_refused(
    rewards: str, seeds: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=said):
        cli.main(["ablate", "--rewards", rewards, "--seeds", seeds, "--out", str(tmp_path)])


def test_one_scenario_makes_no_interval(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--scenarios"):
        cli.main(["ablate", "--scenarios", "1", "--out", str(tmp_path)])
