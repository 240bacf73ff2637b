from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make import NOW_NS, permuted, snapshot

from agent.act.network import SHAPES, ParameterError, checked, fresh_parameters
from agent.act.policy import Policy
from agent.act.weights import bounded, capacity, kappa, log_factor, score, weights
from agent.observe import observe
from agent.settings import ACTIONS, PolicySettings, SettingsError


def lively(seed=0):
    """Parameters whose last layer is not small, so that actions differ."""
    parameters = fresh_parameters(seed)
    parameters["decide2.weight"] = parameters["decide2.weight"] * np.float32(300.0)
    return parameters


def later(count, steps, seed=0, **changes):
    return replace(snapshot(count, seed + steps, **changes), now_ns=NOW_NS + steps * 250_000_000)


def test_a_fresh_network_is_near_neutral():
    for seed in range(5):
        policy = Policy(PolicySettings(base="none"), fresh_parameters(seed))
        action = policy.act(observe(snapshot(7, seed), None), stochastic=False)
        assert np.all(np.abs(action.log_g) < 0.05)


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_order_of_backends_does_not_matter_over_many_steps(stochastic):
    one = Policy(PolicySettings(), lively(), seed=3)
    other = Policy(PolicySettings(), lively(), seed=3)
    rng = np.random.default_rng(0)
    for number in range(10):
        shot, order = later(6, number), rng.permutation(6)
        plain = one.act(observe(shot, None), stochastic)
        mixed = other.act(observe(permuted(shot, order), None), stochastic)
        assert mixed.weights == pytest.approx(plain.weights[order], rel=1e-3)


def test_memory_belongs_to_an_identity():
    policy = Policy(PolicySettings(), lively())
    policy.act(observe(snapshot(3), None), stochastic=False)
    ids = np.array([3, 77, 1], np.uint64)
    action = policy.act(observe(later(3, 1, identity=ids), None), stochastic=False)
    assert action.hidden[0].any()
    assert not action.hidden[1].any()
    assert policy.last_action(np.array([2], np.uint64)).tolist() == [[0.0] * len(ACTIONS)]
    again = policy.act(observe(later(3, 2), None), stochastic=False)
    assert not again.hidden[1].any(), "a backend that went and came back starts anew"


def test_what_does_not_explore_is_smoothed_and_arrives():
    policy, quiet = Policy(PolicySettings(), lively()), fresh_parameters(0)
    shot = observe(snapshot(3), None)
    first = policy.act(shot, stochastic=False)
    quiet["decide2.weight"][:] = 0.0
    quiet["decide2.bias"][: len(ACTIONS)] = np.arctanh(0.5)
    policy.load(quiet)
    second = policy.act(shot, stochastic=False)
    assert second.u == pytest.approx(0.5 * (first.u + 0.5), abs=1e-6)
    for _ in range(20):
        last = policy.act(shot, stochastic=False)
    assert last.u == pytest.approx(0.5, abs=1e-5)
    newcomer = observe(snapshot(4), None)
    assert policy.act(newcomer, stochastic=False).u[3] == pytest.approx(0.5, abs=1e-6)


def test_a_newcomer_in_a_pause_changes_nothing_that_holds_for_all():
    policy = Policy(PolicySettings(), lively())
    acted = policy.act(observe(snapshot(3), None), stochastic=False)
    held = policy.hold(observe(snapshot(6), None))
    assert held.offset == pytest.approx(acted.offset)
    assert held.u[3:] == pytest.approx(np.tile(acted.u.mean(axis=0), (3, 1)), abs=1e-6)
    fresh = Policy(PolicySettings(), lively()).hold(observe(snapshot(2), None))
    assert not fresh.u.any()


def test_without_memory_the_past_does_not_matter():
    settings = PolicySettings(recurrent=False)
    one, other = Policy(settings, lively()), Policy(settings, lively())
    for number in range(5):
        last = one.act(observe(later(3, number), None), stochastic=False)
    now = observe(later(3, 9), None)
    chosen = other.act(now, stochastic=False).u
    # But for the smoothing of what is chosen.
    assert one.act(now, stochastic=False).u == pytest.approx(0.5 * (last.u + chosen))


def test_a_new_backend_starts_at_a_neutral_last_action():
    policy = Policy(PolicySettings(base="none"), lively())
    policy.act(observe(snapshot(3), None), stochastic=True)
    last = policy.last_action(np.array([1, 99], np.uint64))
    assert last[0].all()
    assert not last[1].any()


def test_exploration_is_reproducible_correlated_and_of_unit_variance():
    runs = []
    for _ in range(2):
        policy = Policy(PolicySettings(noise_correlation=0.9), fresh_parameters(0), seed=5)
        seen = observe(snapshot(16), None)
        runs.append(np.array([policy.act(seen, stochastic=True).u for _ in range(400)]))
    assert np.array_equal(*runs)
    noise = np.arctanh(runs[0].astype(np.float64))
    noise = noise[100:] - noise[100:].mean()
    lag1 = np.mean(noise[1:] * noise[:-1]) / np.mean(noise * noise)
    assert lag1 == pytest.approx(0.9, abs=0.05)


actions = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20)


@given(actions, st.floats(1.1, 100))
def test_log_factors_have_mean_zero_and_a_bounded_ratio(u, ratio):
    settings = PolicySettings(max_ratio=ratio, base="none")
    log_g = log_factor(np.array(u, np.float32), settings)
    assert log_g.mean() == pytest.approx(0.0, abs=1e-9)
    assert np.ptp(log_g) <= np.log(ratio) + 1e-9


@given(actions, st.floats(1.1, 100), st.integers(0, 99))
def test_weights_are_finite_positive_and_bounded_whatever_the_latencies(u, ratio, seed):
    rng = np.random.default_rng(seed)
    latency = np.exp(rng.uniform(-12, 5, len(u))) * rng.integers(0, 2, len(u))
    settings = PolicySettings(max_ratio=ratio)
    busy = np.exp(rng.uniform(-9, 9, len(u)))
    found = capacity(latency, busy, float(rng.uniform(0.0, 2.0)))
    a = weights(log_factor(np.array(u, np.float32), settings), found, settings)
    assert np.all(np.isfinite(a))
    assert np.all(a > 0.0)
    assert a.max() / a.min() <= ratio * (1 + 1e-9)


def test_base_latency_is_the_inverse_of_latency_and_base_none_is_not():
    log_g, latency, busy = np.zeros(3), np.array([0.01, 0.02, 0.04]), np.array([0.0, 3.0, 9.0])
    plain = capacity(latency, busy, 0.0)
    a = weights(log_g, plain, PolicySettings(base="latency"))
    assert a / a[0] == pytest.approx([1.0, 0.5, 0.25])
    assert weights(log_g, plain, PolicySettings(base="none")).tolist() == [1.0, 1.0, 1.0]


def test_with_kappa_1_processor_sharing_shows_its_capacity_whatever_its_queue():
    """L = (1 + n) / c where every flow slows all others down."""
    c, n = np.array([50.0, 50.0, 200.0]), np.array([0.0, 6.0, 3.0])
    assert capacity((1.0 + n) / c, n, 1.0) == pytest.approx(c)
    assert capacity(np.array([0.0, np.inf, 0.1]), n, 1.0) == pytest.approx([0.0, 0.0, 40.0])


def test_kappa_runs_from_0_to_its_bound():
    settings = PolicySettings(busy_most=3.0)
    found = [kappa(np.full(2, u, np.float32), settings) for u in (-1.0, 0.0, 1.0)]
    assert found == pytest.approx([0.0, 0.75, 3.0])


def test_a_score_is_made_of_all_actions_at_their_memories():
    u = np.zeros((2, len(ACTIONS)), np.float32)
    u[:, ACTIONS.index("memory")] = 1.0
    latency = np.array([[9.0, 9.0, 0.1], [9.0, 9.0, 0.2]])
    busy = np.array([[9.0, 9.0, 1.0], [9.0, 9.0, 7.0]])
    found = score(u, latency, busy, PolicySettings(busy_most=4.0))
    assert found.offset == 1.0
    assert found.weights[1] / found.weights[0] == pytest.approx((8.0 / 0.2) / (2.0 / 0.1))
    u[:, ACTIONS.index("busy")] = -1.0
    found = score(u, latency, busy, PolicySettings())
    assert found.weights[1] / found.weights[0] == pytest.approx(0.5)


def test_one_outlier_does_not_flatten_the_others():
    got = bounded(np.array([-5.0, 0.0, 0.5, 1.0]), np.log(16.0))
    assert got[1:].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_unfit_parameters_are_refused_by_name(name):
    parameters = fresh_parameters(0)
    bad = parameters[name].copy()
    bad.flat[0] = np.nan
    for wrong in ({**parameters, name: bad}, {**parameters, name: bad[:-1]}):
        with pytest.raises(ParameterError, match=name.replace(".", r"\.")):
            checked(wrong)
    del parameters[name]
    with pytest.raises(ParameterError, match="missing"):
        checked(parameters)


@pytest.mark.parametrize(
    "bad", [{"max_ratio": 1.0}, {"max_ratio": np.nan}, {"base": "x"}, {"noise_correlation": 1.0}]
)
def test_settings_out_of_bounds_are_refused(bad):
    with pytest.raises(SettingsError):
        PolicySettings(**bad)
