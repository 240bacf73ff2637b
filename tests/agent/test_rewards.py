import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rewards import REWARDS, VARIANCE_FLOOR, relative, shares

durations = st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=12).map(np.array)


@pytest.mark.parametrize("name", sorted(REWARDS))
class TestEveryReward:
    @given(l=durations)
    def test_is_largest_when_all_are_equal(self, name, l):  # noqa: E741
        best = REWARDS[name](np.ones(l.size))
        assert REWARDS[name](l) <= best + 1e-9

    @given(l=durations, seed=st.integers(0, 99))
    def test_does_not_depend_on_order(self, name, l, seed):  # noqa: E741
        other = np.random.default_rng(seed).permutation(l)
        assert REWARDS[name](other) == pytest.approx(REWARDS[name](l), rel=1e-6, abs=1e-9)

    @given(l=durations, scale=st.floats(1e-6, 1e6))
    def test_does_not_depend_on_scale(self, name, l, scale):  # noqa: E741
        assert REWARDS[name](l * scale) == pytest.approx(REWARDS[name](l), rel=1e-6, abs=1e-9)

    @pytest.mark.parametrize("l", [[], [0.0], [5.0], [0.0, 0.0, 0.0], [2.0, 2.0]])
    def test_is_at_its_best_if_there_is_nothing_to_compare(self, name, l):  # noqa: E741
        assert REWARDS[name](np.array(l)) == pytest.approx(
            REWARDS[name](np.ones(max(len(l), 1))), abs=1e-12
        )

    def test_falls_as_one_backend_gets_slower(self, name):
        values = [REWARDS[name](np.array([1.0, 1.0, slow])) for slow in (1.0, 1.5, 2.0, 4.0)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
    def test_refuses_what_is_not_a_duration(self, name, bad):
        with pytest.raises(ValueError, match="finite"):
            REWARDS[name](np.array([1.0, bad]))


def test_worked_numbers():
    l = np.array([1.0, 3.0])  # noqa: E741 - over the mean: 0.5 and 1.5
    assert REWARDS["VBF"](l) == pytest.approx(-0.25)
    assert REWARDS["logVBF"](l) == pytest.approx(-math.log(0.25 + VARIANCE_FLOOR))
    assert REWARDS["VBF+logVBF"](l) == pytest.approx(-0.25 - math.log(0.25 + VARIANCE_FLOOR))
    assert REWARDS["PBF"](l) == pytest.approx(1 / 3)
    assert REWARDS["MS"](l) == pytest.approx(-1.5)
    assert REWARDS["logMS"](l) == pytest.approx(-math.log(1.5))
    assert REWARDS["CV"](l) == pytest.approx(-0.5)
    assert REWARDS["Jain"](l) == pytest.approx(16 / 20)
    assert REWARDS["G"](l) == pytest.approx(math.sin(math.pi / 6))


@given(l=durations)
def test_shares_add_up_and_nobody_gains(l):  # noqa: E741
    reward, best = REWARDS["VBF+logVBF"](l), REWARDS["VBF+logVBF"](np.ones(l.size))
    parts = shares(reward, best, l)
    assert np.all(parts <= 1e-9)
    # Squared deviations below about 1e-30 vanish; then there is nothing to share.
    if np.any(parts):
        assert parts.mean() == pytest.approx(reward - best, rel=1e-6, abs=1e-9)


def test_shares_of_vbf_are_its_own_terms():
    l = np.array([1.0, 2.0, 6.0])  # noqa: E741
    assert shares(REWARDS["VBF"](l), 0.0, l) == pytest.approx(-((relative(l) - 1.0) ** 2))
