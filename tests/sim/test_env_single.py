"""The Gymnasium environment: its checker, its agreement with the simulator and the live agent."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as same

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.act.weights import log_bound
from agent.agent import Agent
from agent.observe import FEATURE_COUNT, FEATURES, SERVICE_COUNT
from agent.settings import AgentSettings, PolicySettings
from testbed.sim import policies
from testbed.sim.env import BALANCER
from testbed.sim.env.coding import ActionError, flat
from testbed.sim.env.episodes import EpisodeError
from testbed.sim.env.game import Options
from testbed.sim.env.single import BalancerEnv
from testbed.sim.policies import RuleError
from testbed.sim.run import Run, simulate
from tests.sim.env_scenarios import COMING, LONE, NEUTRAL, SHORT, action


class Recording(Policy):
    """A policy that keeps its last action."""

    def act(self, observation, stochastic):
        self.last = super().act(observation, stochastic)
        return self.last

    def hold(self, observation):
        self.last = super().hold(observation)
        return self.last


def played(env, u, **reset):
    """Play an episode with the same action at every step; all that came of it."""
    observation, info = env.reset(**reset)
    steps = [(observation, 0.0, info)]
    over = False
    while not over:
        observation, reward, terminated, over, info = env.step(u)
        assert not terminated
        steps.append((observation, reward, info))
    return steps


def test_it_passes_gymnasiums_checker(capsys):
    check_env(gymnasium.make(BALANCER, scenarios=(SHORT,)).unwrapped)
    assert "backend" in capsys.readouterr().out  # the checker renders in every mode


def test_the_registered_name_makes_it():
    env = gymnasium.make(f"testbed.sim.env:{BALANCER}", scenarios=(SHORT,))
    assert isinstance(env.unwrapped, BalancerEnv)


def test_an_episode_lasts_as_long_as_its_scenario():
    steps = played(BalancerEnv((SHORT,)), NEUTRAL, seed=1)
    assert len(steps) - 1 == 12
    assert steps[-1][2]["now_s"] == SHORT.duration_s


def test_a_seed_repeats_an_episode_and_another_does_not():
    env = BalancerEnv((SHORT,))
    first, again = played(env, NEUTRAL, seed=1), played(env, NEUTRAL, seed=1)
    assert same(first, again)
    assert not same(first, played(env, NEUTRAL, seed=2))
    # Without a seed each episode has another; from the same start the same others.
    env.reset(seed=1)
    _, third = env.reset()
    env.reset(seed=1)
    _, fourth = env.reset()
    assert third["seed"] == fourth["seed"] != 1


@pytest.mark.parametrize("others", ["lsq", lambda observation: NEUTRAL])
def test_equal_weights_are_the_shortest_queue(others):
    info = played(BalancerEnv((SHORT,), others=others), NEUTRAL, seed=3)[-1][2]
    result = simulate(SHORT, policies.rule("lsq"), 3)
    assert info["mean_s"] == result.mean_s
    assert info["p99_s"] == result.quantile_s(0.99)
    assert info["failed"] == 0.0


def test_weights_near_the_true_capacities_are_better_than_the_reverse():
    log_speeds = np.log([1, 1, 2, 2, 4, 4, 4]) / log_bound(PolicySettings(base="none"))
    right = action(*(log_speeds - log_speeds.mean()))
    mean_s = [
        played(BalancerEnv((SHORT,), others=lambda _, u=u: u), u, seed=4)[-1][2]["mean_s"]
        for u in (right, -right)
    ]
    assert mean_s[0] < 0.8 * mean_s[1]


@pytest.mark.parametrize("base", ["none", "latency"])
def test_observations_rewards_and_weights_are_those_of_the_live_agent(base):
    policy = PolicySettings(base=base)
    settings = AgentSettings(mode="frozen", policy=policy)
    recording = Recording(policy, fresh_parameters(seed=5))
    agent = Agent(settings, recording)
    run = Run(SHORT, policies.rule("ewma"), 6, led=[1])
    env = BalancerEnv((SHORT,), others="ewma", options=Options(policy=policy))
    observation, _ = env.reset(seed=6)
    for step in range(1, 11):
        decision = agent.step(run.world.snapshot(1))
        run.world.set_weights(1, decision.identity, decision.weights, decision.offset)
        run.advance(0.25 * step)
        np.testing.assert_array_equal(observation["backends"], decision.observation.features)
        np.testing.assert_array_equal(observation["service"], decision.observation.service)
        observation, reward, *_ = env.step(recording.last.u)
    assert agent.step(run.world.snapshot(1)).reward == reward


def test_what_the_others_do_matters_to_the_learner():
    before = played(BalancerEnv((SHORT,), others="lsq"), NEUTRAL, seed=1)[-1]
    after = played(BalancerEnv((SHORT,), others="ecmp"), NEUTRAL, seed=1)[-1]
    assert not np.array_equal(before[0]["backends"], after[0]["backends"])


def test_a_policy_of_the_others_gets_their_own_observations():
    seen = []

    def policy(observation):
        seen.append(observation)
        return NEUTRAL

    env = BalancerEnv((SHORT,), others=policy)
    steps = played(env, NEUTRAL, seed=1)
    assert len(seen) == len(steps) - 1
    own, others = steps[-2][0], seen[-1]
    assert env.observation_space.contains(others)
    assert not np.array_equal(own["backends"], others["backends"])


def test_rows_without_a_backend_are_zero_and_masked():
    env = BalancerEnv((SHORT, LONE), max_backends=9)
    observation, info = env.reset(seed=1, options={"scenario": "lone"})
    assert info["scenario"] == "lone"
    observation, *_ = env.step(action(rows=9))
    assert observation["mask"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert observation["backends"].shape == (9, FEATURE_COUNT)
    assert observation["backends"][:3].any(axis=1).all()
    assert not observation["backends"][3:].any()
    assert flat(observation).shape == (9 * FEATURE_COUNT + SERVICE_COUNT + 9,)


def test_a_backend_keeps_its_row_while_others_come_and_go():
    steps = played(BalancerEnv((COMING,)), action(rows=5), seed=1)
    masks = [observation["mask"].tolist() for observation, *_ in steps]
    assert masks[3] == [1, 1, 1, 1, 0]
    assert masks[5] == [1, 0, 1, 1, 1]
    before, after = steps[3][0]["backends"], steps[5][0]["backends"]
    share = FEATURES.index("valid_share")
    assert after[4, share] < before[0, share] <= after[0, share]


def test_the_action_of_a_row_without_a_backend_is_ignored():
    first = played(BalancerEnv((LONE,), max_backends=4), action(0.5, -0.5, 0, 0), seed=1)
    other = played(BalancerEnv((LONE,), max_backends=4), action(0.5, -0.5, 0, 1), seed=1)
    assert same(first, other)


@pytest.mark.parametrize(
    ("unusable", "message"),
    [(NEUTRAL[:3], "shape"), (NEUTRAL * np.nan, "finite"), (np.zeros(7), "shape")],
)
def test_an_unusable_action_is_named(unusable, message):
    env = BalancerEnv((SHORT,))
    env.reset(seed=1)
    with pytest.raises(ActionError, match=message):
        env.step(unusable)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BalancerEnv((SHORT,), max_backends=3), EpisodeError, "7 servers"),
        (lambda: BalancerEnv(()), EpisodeError, "at least one"),
        (lambda: BalancerEnv((SHORT,), others="best"), RuleError, "best"),
        (lambda: BalancerEnv((SHORT,), render_mode="film"), ValueError, "film"),
        (lambda: Options(reward="most"), ValueError, "most"),
        (lambda: BalancerEnv((SHORT,), others="jiq").reset(), RuleError, "jiq"),
        (lambda: BalancerEnv((SHORT,)).reset(options={"scenario": "x"}), EpisodeError, "'x'"),
        (lambda: BalancerEnv((SHORT,)).step(NEUTRAL), gymnasium.error.ResetNeeded, "reset"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_text_and_picture_show_the_weights():
    env = BalancerEnv((SHORT,), render_mode="ansi")
    env.reset(seed=1)
    assert env.render().count("1.00") == 7
    env.step(action(1, -1, 0, 0, 0, 0, 0))
    assert "short, 0.25 s" in env.render()
    assert env.render().count("1.00") == 0
    env = BalancerEnv((SHORT,), render_mode="rgb_array")
    env.reset(seed=1)
    before = env.render()
    assert before.shape == (360, 640, 3)
    assert before.dtype == np.uint8
    env.step(NEUTRAL)
    assert not np.array_equal(before, env.render())
    env.close()
    assert BalancerEnv((SHORT,)).render_mode is None
