from dataclasses import replace

import numpy as np
import pytest
import torch
from make import step

from agent.act.network import ActorNetwork
from agent.learn import checkpoint
from agent.learn.inline import InlineLearner
from agent.learn.networks import Actor
from agent.learn.replay import Replay
from agent.learn.sac import Learner, squash
from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.policies import SHIPPED
from agent.settings import HIDDEN, LearnSettings
from agent.steps import Step

SMALL = LearnSettings(train_steps=4, burn_in_steps=2, batch_chunks=3, min_steps=8)


def filled(settings=SMALL, counts=(5,) * 12 + (3,) * 12, seed=0):
    rng = np.random.default_rng(seed)
    replay = Replay(64, 8)
    for number, count in enumerate(counts):
        replay.add(step(number, count, rng))
    return Learner(settings, replay)


def test_the_numpy_actor_is_the_torch_actor():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 20):
        _same(Actor(), rng, count)


def _same(actor, rng, count):
    """25 steps of `count` backends."""
    network = ActorNetwork(actor.arrays())
    features = rng.standard_normal((25, count, FEATURE_COUNT), np.float32)
    service = rng.standard_normal((25, SERVICE_COUNT), np.float32)
    hidden = rng.standard_normal((count, HIDDEN), np.float32)
    with torch.no_grad():
        memory, last = actor.remember(
            torch.from_numpy(features[:, None]),
            torch.from_numpy(service[:, None]),
            torch.ones(1, count),
            torch.from_numpy(hidden[None]),
        )
        mean, log_std = actor.decide(memory)
    for t in range(25):
        got_mean, got_log_std, hidden = network.forward(features[t], service[t], hidden)
        assert got_mean == pytest.approx(mean[t, 0].numpy(), abs=1e-5)
        assert got_log_std == pytest.approx(log_std[t, 0].numpy(), abs=1e-5)
    assert hidden == pytest.approx(last[0].numpy(), abs=1e-5)


def test_the_shipped_policy_is_small_and_the_same_in_numpy_and_torch():
    assert SHIPPED.stat().st_size < 1_000_000
    actor = Actor()
    actor.load_arrays(checkpoint.actor_of(checkpoint.load(SHIPPED), str(SHIPPED)))
    _same(actor, np.random.default_rng(1), 64)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    learner = filled()
    batch = learner.replay.sample(4, 6, np.random.default_rng(1))
    critic = next(learner._online_critics())

    def heads(pad):
        def padded(array, axis):
            width = [(0, 0)] * array.ndim
            width[axis] = (0, pad)
            return torch.from_numpy(np.pad(array, width))

        mask = padded(batch.mask, 1)
        memory, _ = critic.remember(
            padded(batch.features, 2),
            torch.from_numpy(batch.service),
            mask,
            torch.zeros(*mask.shape, HIDDEN),
        )
        return critic.heads(memory[:-1], padded(batch.u, 2), mask)[..., : batch.mask.shape[1]]

    real = torch.from_numpy(batch.mask)
    assert torch.allclose(heads(0) * real, heads(5) * real, atol=1e-5)


def gradients(loss, parameters):
    return torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)


def losses(learner):
    batch = learner.replay.sample(8, learner.settings.chunk_steps, learner.rng)
    chunk = learner.prepare(batch)
    mean, log_std = learner.actor.decide(chunk.actor)
    u, log_pi = squash(mean, log_std, torch.randn(mean.shape, generator=learner.generator))
    return chunk, mean, u, log_pi


def test_the_actor_loss_reaches_every_actor_parameter_through_q():
    learner = filled()
    with torch.no_grad():
        learner.log_alpha.fill_(-60.0)  # no entropy term: what arrives came through Q
    chunk, mean, u, log_pi = losses(learner)
    loss, _ = learner.actor_loss(chunk, mean.detach(), u, log_pi)
    parameters = dict(learner.actor.named_parameters())
    for name, gradient in zip(parameters, gradients(loss, parameters), strict=True):
        assert gradient is not None, name
        assert torch.any(gradient != 0.0), name


def test_the_critic_loss_reaches_every_critic_parameter_and_no_target():
    learner = filled()
    chunk, _, u, log_pi = losses(learner)
    parameters = dict(learner.critics.named_parameters())
    loss = learner.critic_loss(chunk, u, log_pi)
    for name, gradient in zip(parameters, gradients(loss, parameters), strict=True):
        assert gradient is not None, name
        assert torch.any(gradient != 0.0), name
    assert not any(p.requires_grad for p in learner.targets.parameters())


def test_the_temperature_rises_while_entropy_is_below_its_target():
    learner = filled()
    chunk, _, _, log_pi = losses(learner)
    for level, sign in ((5.0, -1.0), (-5.0, 1.0)):
        loss = learner.temperature_loss(chunk, torch.full_like(log_pi, level))
        (gradient,) = torch.autograd.grad(loss, [learner.log_alpha])
        assert torch.sign(gradient).item() == sign


def test_log_pi_is_the_density_of_the_squashed_gaussian():
    mean, log_std = torch.tensor([0.3]), torch.tensor([-0.7])
    normal = torch.distributions.Normal(mean, log_std.exp())
    wanted = torch.distributions.TransformedDistribution(
        normal, [torch.distributions.TanhTransform()]
    )
    for noise in (-2.0, 0.1, 1.5):
        u, log_pi = squash(mean, log_std, torch.tensor([noise]))
        assert log_pi.item() == pytest.approx(wanted.log_prob(u).item(), abs=1e-4)


def test_two_runs_from_one_seed_agree_bit_for_bit():
    one, other = filled(), filled()
    one.update(5)
    torch.manual_seed(12345)  # whoever else uses torch's generator must not matter
    np.random.default_rng(1).random()
    other.update(5)
    for name, array in one.actor_arrays().items():
        assert np.array_equal(array, other.actor_arrays()[name]), name


def test_targets_follow_softly():
    learner = filled()
    before = [p.clone() for p in learner.targets.parameters()]
    learner.update(1)
    for old, target, online in zip(
        before, learner.targets.parameters(), learner.critics.parameters(), strict=True
    ):
        assert torch.allclose(target, old + SMALL.tau * (online - old), atol=1e-7)


def test_too_short_a_replay_updates_nothing():
    learner = filled(counts=(4,) * 7)
    assert learner.update(3) is None
    assert learner.updates == 0


def test_chunks_never_span_a_change_of_backends_or_a_gap():
    rng = np.random.default_rng(0)
    replay = Replay(64, 8)
    for number in [*range(10), *range(11, 20)]:
        replay.add(step(number, 3 if number < 15 else 4, rng))
    # Runs of consecutive steps with one set: 0-9 (10), 11-14 (4), 15-19 (5).
    assert replay.ends(3).size == 7 + 1 + 2
    assert replay.ends(9).size == 1
    assert replay.ends(10).size == 0


def test_the_replay_is_bounded_and_what_is_drawn_is_what_was_stored():
    rng = np.random.default_rng(0)
    replay = Replay(16, 4)
    stored: dict[float, Step] = {}
    for number in range(50):
        stored[number] = step(number, 3, rng)
        assert replay.add(stored[number])
    assert (len(replay), replay.stored, replay.overwritten) == (16, 50, 34)
    assert not replay.add(step(50, 5, rng))
    assert replay.refused == 1
    batch = replay.sample(32, 5, rng)
    by_first = {value.features[0, 0]: number for number, value in stored.items()}
    for chunk in range(32):
        first = by_first[batch.features[0, chunk, 0, 0]]
        assert 34 <= first <= 44
        assert np.array_equal(batch.hidden[chunk], stored[first].hidden)
        for t in range(5):
            assert np.array_equal(batch.u[t, chunk], stored[first + t].u)
            assert np.array_equal(batch.reward[t, chunk], stored[first + t + 1].reward)


def test_without_memory_the_torch_actor_is_the_numpy_actor_from_zero():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    actor = Actor()
    network = ActorNetwork(actor.arrays())
    features = rng.standard_normal((5, 2, 3, FEATURE_COUNT), np.float32)
    service = rng.standard_normal((5, 2, SERVICE_COUNT), np.float32)
    with torch.no_grad():
        memory = actor.at_once(
            torch.from_numpy(features), torch.from_numpy(service), torch.ones(2, 3)
        )
        mean, _ = actor.decide(memory)
    nothing = np.zeros((3, HIDDEN), np.float32)
    for t in range(5):
        for chunk in range(2):
            got, _, _ = network.forward(features[t, chunk], service[t, chunk], nothing)
            assert got == pytest.approx(mean[t, chunk].numpy(), abs=1e-5)


def test_a_learner_without_memory_updates():
    learner = filled(replace(SMALL, recurrent=False))
    before = learner.actor_arrays()
    assert learner.update(3) is not None
    assert not np.array_equal(before["decide2.bias"], learner.actor_arrays()["decide2.bias"])


def test_the_actor_waits_for_the_critics():
    learner = filled(replace(SMALL, actor_after_updates=2))
    before, critic = learner.actor_arrays(), next(learner._online_critics())
    judged = critic.judge2.bias.detach().clone()
    learner.update(2)
    after = learner.actor_arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not torch.equal(judged, critic.judge2.bias)
    learner.update(1)
    assert not np.array_equal(before["decide2.bias"], learner.actor_arrays()["decide2.bias"])


def test_balancers_share_a_learner_and_not_a_replay():
    rng = np.random.default_rng(0)
    settings = replace(SMALL, updates_per_step=0.25)
    learner = Learner(settings, Replay(64, 8))
    first, second = InlineLearner(settings, learner), InlineLearner(settings, learner)
    for number in range(20):
        first.push(step(number, 5, rng))
    assert (len(first.replay), len(second.replay)) == (20, 0)
    assert learner.updates > 0
    new = second.poll()
    assert new is not None
    assert np.array_equal(new["decide2.bias"], learner.actor_arrays()["decide2.bias"])
    assert second.poll() is None
