"""The papers' agents: what they see, how they learn, what is kept of a training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sim_worlds import scenario

from shm.snapshot import Samples, Snapshot
from testbed import cli
from testbed.papers import distr_lb, learned
from testbed.papers.distr_features import see, size
from testbed.papers.distr_lb import HIDDEN, REWARDS, Episode, Learner, levels
from testbed.papers.learned import METHODS, kept_at, settings_of, train, trained
from testbed.sim.scenario import Arrivals, Servers

pytestmark = pytest.mark.timeout(600)

NOW_NS = 10**15
SERVERS = 2
STEPS = 60


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As trainings have it: results are the same on any machine, and threads do not wait busily."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(*rows: list[tuple[float, float]]) -> Samples:
    """(age, value) in s; rows are filled with empty slots."""
    slots = max(len(row) for row in rows) + 1
    t_ns, value_ns = np.zeros((2, len(rows), slots), np.uint64)
    for at, row in enumerate(rows):
        for slot, (age_s, value_s) in enumerate(row):
            t_ns[at, slot] = NOW_NS - int(age_s * 1e9)
            value_ns[at, slot] = int(value_s * 1e9)
    return Samples(t_ns, value_ns)


def snapshot(duration: Samples, fct: Samples, interarrival: Samples, flows: list[int]) -> Snapshot:
    count = len(flows)
    return Snapshot(
        now_ns=NOW_NS,
        generation=1,
        slots=np.arange(count),
        identity=np.arange(1, count + 1, dtype=np.uint64),
        flows=np.array(flows, np.int64),
        waiting=np.zeros(count, np.int64),
        waiting_age_ns=np.zeros(count, np.int64),
        totals={},
        duration=duration,
        fct=fct,
        interarrival=interarrival,
    )


def test_features_by_hand() -> None:
    """Two samples of 1 s (now) and 3 s (a second old): weights 1 and 0.9."""
    seen = see(
        snapshot(
            samples([(0.0, 1.0), (1.0, 3.0)], []),
            samples([(0.0, 2.0)], [(0.0, 5.0)]),
            samples([(0.0, 0.5)]),
            [4, 7],
        ),
        SERVERS,
    )
    assert seen.observation.shape == (size(SERVERS),) == (27,)
    weighted = (1.0 + 0.9 * 3.0) / 1.9
    np.testing.assert_allclose(
        seen.observation,
        [
            *(4, 2.0, 3.0, 1.0, (1.0 + 0.9 * 3.0) / 2, weighted),
            *(2.0, 2.0, 0.0, 2.0, 2.0),
            *(7, 0, 0, 0, 0, 0),
            *(5.0, 5.0, 0.0, 5.0, 5.0),
            *(0.5, 0.5, 0.0, 0.5, 0.5),
        ],
        rtol=1e-5,
    )
    # Who has no samples is not thought to be idle.
    np.testing.assert_allclose(seen.duration_s, [weighted, weighted], rtol=1e-5)


def test_another_number_of_servers_is_refused() -> None:
    none = samples([], [])
    with pytest.raises(ValueError, match="made for 3 servers, there are 2"):
        see(snapshot(none, none, samples([]), [0, 0]), 3)


def test_rewards_in_seconds() -> None:
    l_s = np.array([1.0, 3.0])
    assert REWARDS["VBF"](l_s) == pytest.approx(-1.0)
    assert REWARDS["VBF"](10 * l_s) == pytest.approx(-100.0)
    assert REWARDS["VBF+logVBF"](l_s) == pytest.approx(-1.0 - np.log(1.001))
    assert REWARDS["Jain"](l_s) == pytest.approx(16 / 20)


def test_levels_are_the_published_ones() -> None:
    u = np.array([-1.0, -0.79, -0.6, 0.0999, 0.3, 1.0], np.float32)
    np.testing.assert_allclose(levels(u), [1.0, 1.2, 1.2, 1.6, 1.6, 2.0])


def test_the_memory_is_a_gru_for_each_copy() -> None:
    networks = Learner(2, SERVERS, True, 0).actors
    x = torch.randn(2, 5, 3, size(SERVERS) + SERVERS)
    hidden = torch.randn(2, 3, HIDDEN)

    def torchs(tensor: torch.Tensor) -> torch.Tensor:
        update, reset, new = tensor.chunk(3, -1)
        return torch.cat((reset, update, new), -1)

    for copy in range(2):
        gru = torch.nn.GRU(HIDDEN, HIDDEN)
        parts = {"ih": networks.gates, "hh": networks.inner}
        state = {}
        for name, part in parts.items():
            state[f"weight_{name}_l0"] = torchs(part.weight[copy]).t()
            state[f"bias_{name}_l0"] = torchs(part.bias[copy, 0])
        gru.load_state_dict(state)
        before = x[copy]
        for layer in (networks.first, networks.second):
            before = torch.relu(before @ layer.weight[copy] + layer.bias[copy])
        torch.testing.assert_close(
            networks.remember(x, hidden)[copy], gru(before, hidden[copy][None])[0]
        )


def batch(balancers: int = 2, steps: int = 12, sequences: int = 3) -> tuple[torch.Tensor, ...]:
    return (
        torch.randn(balancers, steps + 1, sequences, size(SERVERS) + SERVERS),
        torch.tanh(torch.randn(balancers, steps, sequences, SERVERS)),
        torch.randn(balancers, steps, sequences),
    )


@pytest.mark.parametrize("recurrent", [True, False])
def test_the_gradient_reaches_every_parameter(recurrent: bool) -> None:
    """Also through the action into Q: without the critics' word nothing moves but the spread."""
    torch.manual_seed(0)
    learner = Learner(2, SERVERS, recurrent, 0)
    before = {name: p.detach().clone() for name, p in learner.actors.named_parameters()}
    learner.update(*batch())
    for networks in (learner.actors, learner.critics):
        for name, parameter in networks.named_parameters():
            gradient = parameter.grad
            assert gradient is not None
            assert bool(gradient.flatten(1).abs().sum(1).gt(0).all()), name
    assert all(not torch.equal(p, before[name]) for name, p in learner.actors.named_parameters())


def test_balancers_learn_from_their_own_alone() -> None:
    """What the second has seen changes nothing in the first."""
    one, other = Learner(2, SERVERS, True, 0), Learner(2, SERVERS, True, 0)
    torch.manual_seed(0)
    x, u, reward = batch()
    one.update(x, u, reward)
    reward = reward.clone()
    reward[1] += 5.0
    other.update(x, u, reward)
    for mine, theirs in zip(one.critics.parameters(), other.critics.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad[0::2], theirs.grad[0::2])
        assert not torch.equal(mine.grad[1::2], theirs.grad[1::2])


def test_without_gru_there_is_no_state() -> None:
    learner = Learner(1, SERVERS, False, 0)
    assert not any(
        "gates" in name or "inner" in name for name, _ in learner.actors.named_parameters()
    )
    x = np.random.default_rng(0).standard_normal(size(SERVERS) + SERVERS).astype(np.float32)
    first, memory = learner.act(0, x, learner.actors.empty(1), explore=False)
    again, _ = learner.act(0, x, 5.0 + memory, explore=False)
    assert np.array_equal(first, again)
    with_gru = Learner(1, SERVERS, True, 0)
    first, memory = with_gru.act(0, x, with_gru.actors.empty(1), explore=False)
    again, _ = with_gru.act(0, x, 5.0 + memory, explore=False)
    assert not np.array_equal(first, again)


def test_a_bandit_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward for more weight on the first server and less on the second: the mean moves there."""
    monkeypatch.setattr(distr_lb, "LEARNING_RATE", 3e-3)
    monkeypatch.setattr(distr_lb, "GAMMA", 0.0)
    monkeypatch.setattr(distr_lb, "BATCH", 8)
    learner = Learner(1, SERVERS, False, 0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x = rng.standard_normal((STEPS, size(SERVERS) + SERVERS)).astype(np.float32)
        u = rng.uniform(-1, 1, (STEPS, SERVERS)).astype(np.float32)
        learner.learn([Episode(x, u, u[:, 0] - u[:, 1])])
    chosen, _ = learner.act(0, x[0], learner.actors.empty(1), explore=False)
    assert chosen[0] > 0.5
    assert chosen[1] < -0.5


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An episode of 20 s, two servers, and a batch of 2."""
    of = scenario(
        Servers(), Servers(speed=3.0), balancers=2, arrivals=Arrivals(load=0.7), duration_s=20.0
    )
    monkeypatch.setattr(learned, "scenario", lambda application: of)
    monkeypatch.setattr(distr_lb, "BATCH", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("method", METHODS[1:3], ids=lambda method: method.name)
def test_a_training_is_repeatable(method: learned.Method) -> None:
    first, means, rewards = train(method, "100% CPU", 3, 1)
    second, again, _ = train(method, "100% CPU", 3, 1)
    assert means == again
    assert len(means) == len(rewards) == 3
    assert first.critics.recurrent == method.recurrent
    other, _, _ = train(method, "100% CPU", 3, 2)
    for name, parameter in first.actors.named_parameters():
        assert torch.equal(parameter, dict(second.actors.named_parameters())[name])
        assert not torch.equal(parameter, dict(other.actors.named_parameters())[name])


@pytest.mark.usefixtures("small")
def test_a_training_that_is_kept_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trained(tmp_path, METHODS[0], "100% CPU", 2, 2, 0)
    assert len(done.judged_s) == 2
    monkeypatch.setattr(learned, "train", lambda *_: pytest.fail("again"))
    assert trained(tmp_path, METHODS[0], "100% CPU", 2, 2, 0) == done
    assert [path.suffix for path in (tmp_path / "learned").iterdir()] == [".json"]


def test_settings_tell_trainings_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(METHODS[0], "100% CPU", 2, 2, 0)
    others = [
        settings_of(METHODS[1], "100% CPU", 2, 2, 0),
        settings_of(METHODS[0], "75% CPU, 25% I/O", 2, 2, 0),
        settings_of(METHODS[0], "100% CPU", 2, 3, 0),
        settings_of(METHODS[0], "100% CPU", 2, 2, 1),
    ]
    monkeypatch.setattr(distr_lb, "GAMMA", 0.9)
    others.append(settings_of(METHODS[0], "100% CPU", 2, 2, 0))
    assert len({kept_at(tmp_path, one) for one in [settings, *others]}) == 6


def test_the_papers_settings() -> None:
    """[MPG] Table 9, simulation; [RLB] Eq. 18 and no memory for RLB-SAC."""
    settings = settings_of(METHODS[0], "100% CPU", 30, 500, 0)
    published = {
        "learning_rate": 3e-4,
        "batch": 25,
        "hidden": 64,
        "replay_episodes": 3000,
        "updates_an_episode": 10,
        "step_s": 0.5,
    }
    assert {name: settings[name] for name in published} == published
    assert [(one.recurrent, one.keep) for one in METHODS] == [(True, 0.0)] * 2 + [(False, 0.1)] * 2


@pytest.mark.usefixtures("small")
def test_the_command_makes_rows_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "METHODS", METHODS[1:3])
    of = "--seeds 2 --trainings 1 --episodes 1 --jobs 1".split()
    command = ["papers", "learned", *of, "--application", "100% CPU", "--report", str(tmp_path)]
    assert cli.main(command) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["learned"]["rows"]
    assert [row["policy"] for row in rows] == [
        *learned.PLAIN,
        learned.UNTRAINED,
        "Distr-LB, VBF+logVBF",
        "RLB-SAC, Jain",
    ]
    assert rows[0]["to the oracle"] == pytest.approx(1.0)
    assert all(row["to the oracle"] > 0.5 for row in rows)
    assert (tmp_path / "papers-learned.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="none is 'x'"):
        cli.main(["papers", "learned", "--application", "x", "--report", str(tmp_path)])
