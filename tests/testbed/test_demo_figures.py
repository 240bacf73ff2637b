"""What the demo says of the agent's weights: when they are where they stay, and how right."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.demo.compare import CHANGED, CONFIGURED, Comparison
from testbed.demo.figures import weights
from testbed.demo.scenario import Scenario


def comparison(looks: int = 60, off: float = 1.0) -> Comparison:
    """Even weights for two seconds, then the speeds, the first of them `off` times as large; then
    another method's turn; after the change three seconds of the old ones."""
    scenario = Scenario()
    found = Comparison(scenario, changed_s=100.0)
    speeds = np.array(list(scenario.speeds.values()))
    changed = np.array(list(scenario.changed.values()))
    speeds[0] *= off
    for look in range(looks):
        at_s = 0.25 * look
        found.weights.append((at_s, np.ones(7) if at_s < 2.0 else speeds))
        found.weights.append((100.0 + at_s, speeds if at_s < 3.0 else changed))
    found.weights.sort(key=lambda one: one[0])
    return found


def test_weights_are_settled_when_they_are_where_they_stay() -> None:
    found = weights(comparison())
    assert found[CONFIGURED].settled_s == pytest.approx(2.0)
    assert found[CHANGED].settled_s == pytest.approx(3.0)
    assert found[CONFIGURED].off == pytest.approx(1.0)
    assert found[CHANGED].off == pytest.approx(1.0)


def test_weights_that_stay_at_the_wrong_place_are_told_by_the_speeds() -> None:
    found = weights(comparison(off=3.0))[CONFIGURED]
    assert found.settled_s == pytest.approx(2.0)
    # Three times as large, of a mean that is 3 ** (1/7) as large.
    assert found.off == pytest.approx(3.0 ** (6 / 7))


def test_another_methods_turn_is_no_time() -> None:
    one = comparison()
    one.weights = [(at + (50.0 if 0.9 < at < 100.0 else 0.0), look) for at, look in one.weights]
    assert weights(one)[CONFIGURED].settled_s == pytest.approx(1.75)


def test_few_looks_tell_nothing_and_restless_weights_settle_never() -> None:
    few = weights(comparison(looks=5))[CONFIGURED]
    assert (few.settled_s, few.off) == (None, None)
    one = comparison()
    rng = np.random.default_rng(0)
    one.weights = [(at, np.exp(rng.normal(0.0, 2.0, 7))) for at, _ in one.weights]
    assert weights(one)[CONFIGURED].settled_s is None
