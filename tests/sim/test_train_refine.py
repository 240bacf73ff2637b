"""The refining stage: what comes when, late weights, cut runs, what is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from sim_worlds import scenario

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.learn import checkpoint
from agent.policies import SHIPPED
from agent.settings import AgentSettings, LearnSettings, PolicySettings
from testbed.sim.compiled import dispatch
from testbed.sim.scenario import Arrivals, Event, Servers
from testbed.sim.world import World
from testbed.train import distribution, refine
from testbed.train.command import VALIDATION_FROM, Recipe, Store, practise
from testbed.train.practice import Learning
from testbed.train.validate import Score

pytestmark = pytest.mark.timeout(600)

QUICK = LearnSettings(
    train_steps=3, burn_in_steps=1, batch_chunks=2, updates_per_step=0.2, min_steps=6
)
SMALL = refine.Settings(episodes=4, episode_s=4.0, judge_every=2, late_s=0.05, learn=QUICK)


def places(balancers: int = 2, load: float = 0.7):
    return scenario(
        Servers(count=2),
        Servers(speed=3.0),
        balancers=balancers,
        arrivals=Arrivals(load=load),
    )


def test_the_easy_come_first_and_at_the_end_all() -> None:
    calm, hard = places(), places(balancers=6, load=0.95)
    assert refine.difficulty(calm) < refine.difficulty(hard)
    order = list(range(8))
    settings = refine.Settings(episodes=100, easy_share=0.25, easy_until=0.5)
    assert refine.eligible(order, 0, settings) == [0, 1]
    assert len(refine.eligible(order, 25, settings)) == 5
    assert refine.eligible(order, 50, settings) == refine.eligible(order, 99, settings) == order


def test_a_shortened_scenario_has_no_events_after_its_end() -> None:
    events = (Event(at_s=1.0, server=0, kind="remove"), Event(at_s=9.0, server=0, kind="add"))
    short = refine.shortened(scenario(Servers(count=3), warmup_s=5.0, events=events), 6.0)
    assert (short.duration_s, short.warmup_s, short.events) == (6.0, 0.0, events[:1])


def test_late_weights_are_in_force_late() -> None:
    world = World(places(), 0)
    world.use(dispatch.SED)
    settings = AgentSettings(mode="learn", policy=PolicySettings(base="none"))
    agent = Agent(settings, Policy(settings.policy, fresh_parameters(0)))
    learning = Learning(agent, period_s=0.25, late_s=0.1)
    # The first step only begins to count arrivals; the second decides.
    world.advance(1.0)
    for _ in range(2):
        learning.step(world, 0)
    world.advance(10.0)
    before = world.state.weight[0].copy()
    learning.step(world, 0)
    assert np.array_equal(world.state.weight[0], before)
    assert learning.period_s == pytest.approx(0.1)
    learning.step(world, 0)
    assert not np.array_equal(world.state.weight[0], before)
    assert learning.period_s == pytest.approx(0.15)
    assert agent.counters.steps == 2


def test_weights_cannot_be_later_than_a_period() -> None:
    agent = Agent(AgentSettings(), Policy(PolicySettings(), fresh_parameters(0)))
    with pytest.raises(ValueError, match="late_s"):
        Learning(agent, period_s=0.25, late_s=0.25)


class Cut(Exception):
    """Somebody pulled the plug."""


def test_a_cut_run_goes_on_and_keeps_the_best(tmp_path: Path) -> None:
    """Scores fall, so the last is best; the cut comes after the second of four episodes."""
    given = iter([Score(0.3, 0.1), Score(0.2, 0.1), Score(0.1, 0.1)])
    judged = []

    def judge(parameters: refine.Parameters) -> Score:
        judged.append(parameters)
        return next(given)

    def cut(episode: int, came: object, score: Score | None) -> None:
        if episode == 2:
            raise Cut

    begin, path = fresh_parameters(1), tmp_path / "refine.safetensors"
    scenarios = {0: places(), 1: places(balancers=1)}
    with pytest.raises(Cut):
        refine.refine(scenarios, begin, SMALL, path, judge, cut)
    updates = checkpoint.load(path).meta["updates"]
    assert updates > 0

    episodes = []
    outcome = refine.refine(
        scenarios, begin, SMALL, path, judge, lambda *seen: episodes.append(seen[0])
    )
    assert episodes == [3, 4]
    assert [score.log_cost for score in outcome.scores.values()] == [0.3, 0.2, 0.1]
    assert checkpoint.load(path).meta["updates"] > updates
    for name, array in outcome.parameters.items():
        assert np.array_equal(array, judged[-1][name])
    assert any(not np.array_equal(outcome.parameters[name], begin[name]) for name in begin)

    done = refine.refine(scenarios, begin, SMALL, path, judge, lambda *seen: pytest.fail("again"))
    assert done.scores == outcome.scores
    assert np.array_equal(done.parameters["decide2.bias"], outcome.parameters["decide2.bias"])


def test_what_does_not_get_better_is_not_kept(tmp_path: Path) -> None:
    given = iter([Score(0.1, 0.1), Score(0.2, 0.1), Score(0.2, 0.1)])
    begin = fresh_parameters(1)
    outcome = refine.refine(
        {0: places()}, begin, SMALL, tmp_path / "x", lambda _: next(given), lambda *_: None
    )
    assert all(np.array_equal(outcome.parameters[name], begin[name]) for name in begin)


def test_the_stage_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of real validation runs, on the screen and on the board; tiny scenarios."""
    for module in ("testbed.train.command", "testbed.train.validate"):
        monkeypatch.setattr(f"{module}.scenario", lambda number: refine.shortened(places(), 5.0))
    recipe = Recipe(scenarios=2, validation=2, rounds=0, refine=SMALL)
    assert recipe.refine is not None
    numbers = range(VALIDATION_FROM, VALIDATION_FROM + 2)
    with ThreadPoolExecutor(1) as executor:
        outcome = practise(
            recipe, recipe.refine, Store(tmp_path), fresh_parameters(0), numbers, executor
        )
    assert list(outcome.scores) == [0, 2, 4]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_the_recipes_in_the_package_are_valid() -> None:
    folder = Path(distribution.__file__).parent
    shipped, refined = (
        Recipe(**yaml.safe_load((folder / name).read_text()))
        for name in ("shipped.yaml", "refined.yaml")
    )
    assert shipped.refine is None
    assert refined.refine is not None
    assert refined.refine.learn.actor_after_updates == 500
    assert refined.begin is not None
    assert SHIPPED.parts[-3:] == refined.begin.parts
