"""The agent must learn, online, from nothing: base 'none', a fresh network, unknown speeds 4:1."""

import numpy as np
import pytest
import torch
from toy import Toy, spearman

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.learn.inline import InlineLearner
from agent.settings import AgentSettings, LearnSettings, PolicySettings

STEP_S = 0.25


def learn(seed, steps, recipe, speeds):
    """Learn online in a toy; returns the mean log-factors of the last 60 steps and the speeds."""
    torch.set_num_threads(1)
    mixed = np.random.default_rng(seed).permutation(np.array(speeds, float))
    toy = Toy(list(mixed), load=0.8, mean_job_s=0.03, seed=seed)
    settings = AgentSettings(seed=seed, policy=PolicySettings(base="none"))
    learner = InlineLearner(recipe)
    policy = Policy(settings.policy, fresh_parameters(seed), seed)
    agent = Agent(settings, policy, learner)
    log_factors = []
    for _ in range(steps):
        toy.run(STEP_S)
        decision = agent.step(toy.snapshot())
        toy.weights = decision.weights
        log_factors.append(decision.log_factor)
    return np.mean(log_factors[-60:], axis=0), mixed


def test_the_toy_serves_as_queueing_theory_says():
    # M/M/1-PS: mean sojourn 1 / (mu - lambda), here 0.03 / (1 - 0.6).
    toy = Toy([1.0], load=0.6, mean_job_s=0.03, seed=0)
    toy.run(1500.0)
    assert np.mean(toy.flow_s) == pytest.approx(0.03 / 0.4, rel=0.1)


def test_it_tells_fast_from_slow_within_ninety_seconds():
    """Short variant: four servers, half the batch, a recipe that hurries."""
    recipe = LearnSettings(seed=1, batch_chunks=8, gamma=0.8, tau=0.01, neutral_pull=0.1)
    log_g, speeds = learn(1, 360, recipe, [4, 4, 1, 1])
    assert log_g[speeds == 4].min() > log_g[speeds == 1].max()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(6))
def test_it_ranks_the_backends_within_three_minutes_of_traffic(seed):
    log_g, speeds = learn(seed, 720, LearnSettings(seed=seed), [4, 4, 2, 2, 1, 1, 1])
    assert spearman(log_g, speeds) > 0.8
