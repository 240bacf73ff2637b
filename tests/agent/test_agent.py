import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from make import NOW_NS, no_samples, snapshot

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.settings import AgentSettings, PolicySettings, SettingsError


class FakeLearner:
    """A LearnerPort that keeps what it is given and offers what it is told to."""

    def __init__(self):
        self.steps, self.offer, self.accepts = [], None, True

    def push(self, step):
        if self.accepts:
            self.steps.append(step)
        return self.accepts

    def poll(self):
        offer, self.offer = self.offer, None
        return offer


def agent(mode="learn", learner=None, **policy):
    settings = AgentSettings(mode=mode, policy=PolicySettings(**policy))
    return Agent(settings, Policy(settings.policy, fresh_parameters(0)), learner)


def at(count, steps, **changes):
    return replace(snapshot(count, steps, **changes), now_ns=NOW_NS + steps * 250_000_000)


def quiet(count):
    nothing = np.zeros(count, np.int64)
    return {
        "flows": nothing,
        "waiting": nothing,
        "waiting_age_ns": nothing,
        "totals": {},
        "duration": no_samples(count),
        "fct": no_samples(count),
    }


@pytest.mark.parametrize("mode", ["learn", "frozen", "shadow"])
@pytest.mark.parametrize("count", [0, 1, 2, 64])
def test_every_set_of_backends_gets_finite_positive_weights(mode, count):
    decision = agent(mode).step(snapshot(count))
    assert decision.weights.shape == (count,)
    assert np.all(np.isfinite(decision.weights))
    assert np.all(decision.weights > 0)
    assert decision.reason == {0: "empty", 1: "single"}.get(count, "policy")
    assert decision.publish == (mode != "shadow" and count > 0)
    assert (decision.reward is None) == (count < 2)


def test_a_service_that_never_had_traffic_gets_equal_weights():
    decision = agent().step(snapshot(4, **quiet(4)))
    assert decision.reason == "idle"
    assert decision.weights.tolist() == [1.0] * 4
    assert decision.reward is None


def test_an_idle_service_keeps_its_weights_and_teaches_nothing():
    learner = FakeLearner()
    one = agent(learner=learner, base="none")
    busy = one.step(at(4, 0))
    still = {name: value for name, value in quiet(4).items() if name != "totals"}
    idle = one.step(at(4, 1, **still, totals=snapshot(4, 0).totals))
    assert idle.reason == "idle"
    assert idle.weights == pytest.approx(busy.weights, rel=1e-5)
    assert len(learner.steps) == 1


def test_only_learn_mode_explores_and_teaches():
    for mode, teaches in (("learn", True), ("frozen", False), ("shadow", False)):
        learner = FakeLearner()
        first, second = agent(mode, learner), agent(mode, learner)
        second._policy._rng = np.random.default_rng(99)
        a, b = first.step(snapshot(5)), second.step(snapshot(5))
        assert np.array_equal(a.weights, b.weights) != teaches
        assert bool(learner.steps) == teaches


def test_steps_are_handed_over_in_the_order_of_identity():
    learner = FakeLearner()
    ids = np.array([9, 2, 5], np.uint64)
    decision = agent(learner=learner, base="none").step(snapshot(3, identity=ids))
    step = learner.steps[0]
    assert step.identity.tolist() == [2, 5, 9]
    assert np.argsort(step.u[:, 0]).tolist() == np.argsort(decision.log_factor[[1, 2, 0]]).tolist()
    assert step.reward.mean() == pytest.approx(decision.reward + np.log(1e-3), rel=1e-4)


def test_new_parameters_are_used_and_unfit_ones_refused_and_counted():
    learner = FakeLearner()
    one = agent(learner=learner)
    learner.offer = fresh_parameters(7)
    one.step(at(3, 0))
    learner.offer = {**fresh_parameters(7), "encode1.bias": np.full(64, np.nan, np.float32)}
    decision = one.step(at(3, 1))
    assert (one.counters.parameters_loaded, one.counters.parameters_refused) == (1, 1)
    assert np.all(np.isfinite(decision.weights))


def test_dropped_steps_are_counted():
    learner = FakeLearner()
    learner.accepts = False
    one = agent(learner=learner)
    one.step(snapshot(3))
    assert one.counters.steps_dropped == 1


def test_another_generation_of_the_region_is_another_set_of_backends():
    one = agent(base="none")
    one.step(at(3, 0))
    decision = one.step(at(3, 1, generation=2))
    assert not decision.observation.features[:, -1].any()
    assert decision.observation.arrivals == 0


def test_backends_come_and_go_while_the_agent_runs():
    rng = np.random.default_rng(0)
    one = agent(learner=FakeLearner())
    for number in range(60):
        ids = rng.permutation(np.arange(1, 30, dtype=np.uint64))[: rng.integers(0, 9)]
        decision = one.step(at(ids.size, number, identity=ids))
        assert decision.weights.shape == ids.shape
        assert np.all(np.isfinite(decision.weights))


def test_an_unknown_reward_is_refused():
    with pytest.raises(SettingsError, match="unknown reward"):
        Agent(AgentSettings(reward="?"), Policy(PolicySettings(), fresh_parameters(0)))


def test_the_acting_side_never_imports_torch():
    code = (
        "import sys; import agent.agent, agent.act.policy, agent.observe, agent.rewards, "
        "agent.learn.process, agent.learn.replay, agent.learn.checkpoint; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
