"""The PettingZoo environment: its checker, and its agreement with the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from testbed.sim import policies
from testbed.sim.env.parallel import BalancersEnv
from testbed.sim.env.single import BalancerEnv
from testbed.sim.run import simulate
from tests.sim.env_scenarios import COMING, LONE, NEUTRAL, SHORT, action

BOTH = {"balancer_0": NEUTRAL, "balancer_1": NEUTRAL}


@pytest.mark.parametrize("scenario", [SHORT, COMING])
def test_it_passes_pettingzoos_checker(scenario):
    parallel_api_test(BalancersEnv((scenario,)), num_cycles=30)


def test_a_seed_repeats_an_episode():
    parallel_seed_test(lambda: BalancersEnv((SHORT,)))


def test_equal_weights_of_all_are_the_shortest_queue():
    env = BalancersEnv((SHORT,))
    env.reset(seed=3)
    while env.agents:
        *_, infos = env.step(BOTH)
    assert infos["balancer_0"]["mean_s"] == simulate(SHORT, policies.rule("lsq"), 3).mean_s


def test_each_agent_sees_what_the_learner_would_see_in_its_place():
    env, single = BalancersEnv((SHORT,)), BalancerEnv((SHORT,), others=lambda _: NEUTRAL)
    env.reset(seed=3)
    single.reset(seed=3)
    for _ in range(4):
        observations, rewards, *_ = env.step(BOTH)
        observation, reward, *_ = single.step(NEUTRAL)
    for name, value in observation.items():
        np.testing.assert_array_equal(observations["balancer_1"][name], value)
    assert rewards["balancer_1"] == reward
    assert rewards["balancer_0"] != reward


def test_an_episode_has_as_many_agents_as_its_scenario_has_balancers():
    env = BalancersEnv((LONE, SHORT))
    env.reset(options={"scenario": "lone"})
    assert env.agents == ["balancer_0"]
    env.reset(options={"scenario": "short"})
    assert env.agents == env.possible_agents == ["balancer_0", "balancer_1"]


def test_an_agent_that_does_not_act_keeps_its_weights():
    env = BalancersEnv((SHORT,), render_mode="ansi")
    env.reset(seed=1)
    env.step({"balancer_0": action(1, -1, 0, 0, 0, 0, 0), "balancer_1": NEUTRAL})
    shown = env.render()
    assert "weight 0" in shown
    env.step({})
    weights = [line.split("│")[-3] for line in shown.splitlines() if "│" in line]
    assert weights == [line.split("│")[-3] for line in env.render().splitlines() if "│" in line]


def test_it_must_be_reset_first():
    with pytest.raises(RuntimeError, match="reset"):
        BalancersEnv((SHORT,)).step(BOTH)
