"""The flows that are drawn before a run: rates, bursts, profiles, traces, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sim_worlds import scenario

from testbed.load.sizes import Law
from testbed.load.trace import read_trace
from testbed.sim.scenario import Application, Arrivals, Resource, Servers, Size
from testbed.sim.workload import arrival_times, draw_size, draw_workload

TRACE = Path(__file__).parents[2] / "testbed" / "traces" / "poisson_for_loop.csv"


def counts(arrivals: Arrivals, seeds: int, duration_s: float = 100.0) -> np.ndarray:
    of = scenario(Servers(), arrivals=arrivals, duration_s=duration_s)
    return np.array([len(arrival_times(of, np.random.default_rng(s))) for s in range(seeds)])


def test_a_poisson_process_has_its_mean_and_its_variance() -> None:
    found = counts(Arrivals(rate_per_s=20.0), 400)
    assert found.mean() == pytest.approx(2000.0, abs=4 * np.sqrt(2000.0 / 400))
    assert found.var() == pytest.approx(2000.0, rel=4 * np.sqrt(2.0 / 400))


def test_bursts_keep_the_mean_rate_and_add_variance() -> None:
    bursty = Arrivals(rate_per_s=20.0, burst_ratio=6.0, burst_s=1.0, calm_s=4.0)
    found = counts(bursty, 600)
    assert found.mean() == pytest.approx(2000.0, abs=4 * found.std() / np.sqrt(600))
    # Of the integral of the two-state rate: 2 p (1-p) (high - low)^2 T / (1/on + 1/off).
    low = 20.0 / (0.8 + 0.2 * 6.0)
    switching = 2 * 0.2 * 0.8 * (5.0 * low) ** 2 * 100.0 / (1.0 / 1.0 + 1.0 / 4.0)
    assert found.var() == pytest.approx(2000.0 + switching, rel=4 * np.sqrt(2.0 / 600))


def test_a_profile_bends_the_rate() -> None:
    """0 to 2 over the first half, then steady at 2 to 1: expected counts by quarters."""
    arrivals = Arrivals(rate_per_s=50.0, profile=((0.0, 0.0), (50.0, 2.0), (100.0, 1.0)))
    of = scenario(Servers(), arrivals=arrivals, duration_s=100.0)
    at_s = np.concatenate([arrival_times(of, np.random.default_rng(s)) for s in range(40)])
    found = np.histogram(at_s, bins=[0.0, 25.0, 50.0, 75.0, 100.0])[0]
    expected = 40 * 50.0 * 25.0 * np.array([0.5, 1.5, 1.75, 1.25])
    assert (((found - expected) ** 2 / expected).sum()) < 18.47  # chi square, 4 degrees, 0.999
    assert (np.diff(arrival_times(of, np.random.default_rng(0))) >= 0).all()


STEPS = ((10.0, 1.0), (10.0, 3.0), (30.0, 3.0), (30.0, 0.5), (40.0, 0.5), (50.0, 1.5))


def test_a_profile_may_step() -> None:
    """1, then 3 from 10 s, 0.5 from 30 s, up to 1.5 from 40 to 50 s."""
    of = scenario(Servers(), arrivals=Arrivals(rate_per_s=100.0, profile=STEPS), duration_s=60.0)
    at_s = np.concatenate([arrival_times(of, np.random.default_rng(s)) for s in range(40)])
    found = np.histogram(at_s, bins=[0.0, 9.0, 10.0, 11.0, 29.0, 30.0, 31.0, 40.0, 50.0, 60.0])[0]
    expected = 40 * 100.0 * np.array([9.0, 1.0, 3.0, 54.0, 3.0, 0.5, 4.5, 10.0, 15.0])
    assert (((found - expected) ** 2 / expected).sum()) < 27.88  # chi square, 9 degrees, 0.999


def test_bursts_multiply_the_steps_of_a_profile() -> None:
    bursty = Arrivals(rate_per_s=20.0, profile=STEPS, burst_ratio=4.0, burst_s=0.5, calm_s=1.5)
    of = scenario(Servers(), arrivals=bursty, duration_s=60.0)
    each = [arrival_times(of, np.random.default_rng(s)) for s in range(300)]
    for low, high, mean in ((0.0, 10.0, 200.0), (10.0, 30.0, 1200.0), (30.0, 40.0, 100.0)):
        found = np.array([((low <= at_s) & (at_s < high)).sum() for at_s in each])
        assert found.mean() == pytest.approx(mean, abs=4 * found.std() / np.sqrt(len(each)))


def test_a_profile_has_at_most_two_points_at_one_time() -> None:
    with pytest.raises(ValueError, match="two points at one time"):
        Arrivals(load=0.5, profile=((1.0, 1.0), (1.0, 2.0), (1.0, 3.0)))


def test_a_profile_and_bursts_together_keep_the_profiles_mean() -> None:
    arrivals = Arrivals(
        rate_per_s=20.0, profile=((0.0, 1.5), (100.0, 0.5)), burst_ratio=4.0, burst_s=0.5
    )
    found = counts(arrivals, 400)
    assert found.mean() == pytest.approx(2000.0, abs=4 * found.std() / np.sqrt(400))


def test_a_trace_is_scaled_and_repeated() -> None:
    arrivals = Arrivals(rate_per_s=200.0, trace=TRACE)
    of = scenario(Servers(), arrivals=arrivals, duration_s=100.0)
    at_s = draw_workload(of, 1).at_s
    np.testing.assert_array_equal(at_s, draw_workload(of, 2).at_s)
    expected = read_trace(TRACE).at_rate(200.0).lasting(100.0).planned_s
    np.testing.assert_array_equal(at_s, expected)
    assert len(at_s) == pytest.approx(20_000, rel=0.02)
    assert at_s[-1] < 100.0


@pytest.mark.parametrize(
    "size",
    [
        Size(mean_s=2.0),
        Size(mean_s=2.0, law=Law.FIXED),
        Size(mean_s=2.0, law=Law.LOGNORMAL, cv=2.0),
        Size(mean_s=2.0, law=Law.HYPEREXPONENTIAL, cv=4.0),
        Size(mean_s=2.0, law=Law.PARETO, cv=3.0),
        Size(mean_s=2.0, heavy_share=0.44, heavy_ratio=10.0),
        Size(mean_s=2.0, values_s=(1.0, 2.0, 9.0)),
    ],
)
def test_sizes_have_their_mean(size: Size) -> None:
    found = draw_size(size, 200_000, np.random.default_rng(1))
    assert found.mean() == pytest.approx(2.0, abs=4 * found.std() / np.sqrt(200_000) + 1e-12)


def test_applications_come_in_their_shares() -> None:
    cpu = Application(stages=((Resource.CPU, Size(mean_s=1.0)),), share=3.0)
    both = Application(
        stages=((Resource.CPU, Size(mean_s=0.5)), (Resource.IO, Size(mean_s=1.5))),
        share=1.0,
        together=True,
    )
    of = scenario(
        Servers(), applications=(cpu, both), arrivals=Arrivals(rate_per_s=400.0), duration_s=100.0
    )
    work_s = draw_workload(of, 1).work_s
    with_io = work_s[:, 1] > 0.0
    assert with_io.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / len(work_s)))
    np.testing.assert_allclose(work_s[with_io, 1], 3.0 * work_s[with_io, 0])
    assert not work_s[:, 2:].any()
