"""The two worlds: the twin against the servers' own discipline, the figures, a short real run."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from testbed.faithful import twin
from testbed.faithful.compare import Pair
from testbed.faithful.figures import rows
from testbed.faithful.live import LiveRun, Overhead
from testbed.faithful.report import tables, write
from testbed.faithful.setting import TIMEOUT_S, Setting
from testbed.load.arrivals import Plan
from testbed.load.result import RECORD, Outcome, Result
from testbed.processes import Children
from testbed.server.discipline import BlockedProcessorSharing
from testbed.stack import ServiceSpec

LONE = Setting(
    speeds={"a": 2.0},
    methods=(ServiceSpec("lsq", "lsq"),),
    run_s=5.0,
    utilisation=1.2,
    in_service=4,
    backlog=20,
)


def lived(plan: Plan, overhead: Overhead, lag_s: float = 0.0) -> LiveRun:
    """As if every request had left `lag_s` late and failed: only the times are the twin's."""
    table = np.zeros(len(plan), RECORD)
    table["planned_ns"] = np.rint(plan.planned_s * 1e9)
    table["handled_ns"] = table["planned_ns"] + round(lag_s * 1e9)
    table["outcome"] = Outcome.RESET
    return LiveRun(Result(table, 0.0), overhead, 0.5)


def by_discipline(plan: Plan, inside_s: float) -> np.ndarray:
    """(F,) latencies that one backend's discipline gives, NaN for what it rejects."""
    assert plan.work_s is not None
    jobs = BlockedProcessorSharing(cpus=1, in_service=4, backlog=20, speed=2.0)
    done_s = np.full(len(plan), np.nan)
    for number, at_s in enumerate(plan.planned_s + inside_s / 2):
        for job, end_s in jobs.advance(at_s):
            done_s[job] = end_s
        jobs.submit(number, plan.work_s[number], at_s)
    for job, end_s in jobs.advance(1e9):
        done_s[job] = end_s
    return done_s - plan.planned_s + inside_s / 2


@pytest.mark.parametrize("overhead", [Overhead(0.0, 0.0), Overhead(0.004, -0.001)])
def test_the_twin_of_one_backend_is_the_servers_own_discipline(overhead):
    plan = LONE.plan(0)
    simulated = twin.run(LONE, LONE.methods[0], plan, lived(plan, overhead), seed=1)
    expected = by_discipline(plan, overhead.inside_s) + overhead.outside_s
    served = ~np.isnan(expected)
    assert 0 < served.sum() < len(plan)  # some are rejected, by both
    np.testing.assert_allclose(simulated.fct_s[served], expected[served], atol=1e-7)
    assert (simulated.fct_s[~served] == TIMEOUT_S).all()


def test_the_twins_requests_leave_when_the_live_ones_left():
    plan = LONE.plan(0)
    workload = twin.workload(plan, lived(plan, Overhead(0.0, 0.0), lag_s=0.5))
    np.testing.assert_allclose(workload.at_s, plan.planned_s + 0.5, atol=1e-9)
    np.testing.assert_array_equal(workload.work_s[:, 0], plan.work_s)


def test_latency_counts_from_when_a_request_left_and_failures_as_the_timeout():
    table = np.zeros(2, RECORD)
    table["handled_ns"] = 2_000_000
    table["done_ns"] = 12_000_000
    table["outcome"] = Outcome.OK, Outcome.TIMEOUT
    run = LiveRun(Result(table, 0.0), Overhead(0.0, 0.0), 0.5)
    np.testing.assert_allclose(run.latency_s(), [0.01, TIMEOUT_S])
    np.testing.assert_allclose(run.sent_s(), [0.002, 0.002])


def pair(method: str, round_number: int, factor: float) -> Pair:
    """Live latencies `factor` times as long as simulated ones, which differ by the tie seed."""
    simulated_s = np.array([[0.9, 1.9, 2.9], [1.1, 2.1, 3.1]])
    live_s = factor * np.array([1.0, 2.0, 3.0])
    overhead = Overhead(0.001 * round_number, 0.002)
    return Pair(method, round_number, live_s, simulated_s, overhead, 1, 0.25, 0.003)


def test_figures_are_ratios_over_rounds():
    found = rows([pair("near", 0, 1.0), pair("near", 1, 1.1), pair("far", 0, 1.2)])
    near, far = found
    assert [near.method, far.method] == ["near", "far"]
    assert near.mean.simulated_s == pytest.approx(2.0)
    assert near.mean.ratio.estimate == pytest.approx(1.05)
    assert near.mean.ratio.low == pytest.approx(1.0)
    assert near.mean.ratio.high == pytest.approx(1.1)
    assert near.mean.median == pytest.approx(1.05)
    # Two rounds of which each has a standard deviation of 0.1 sqrt(2) about 2.
    assert near.mean.spread == pytest.approx(0.05)
    assert near.overhead.inside_s == pytest.approx(0.0005)
    assert (near.failed, near.requests, near.rounds) == (2, 6, 2)
    assert near.close
    assert not far.close


def test_the_report_holds_every_run(tmp_path):
    pairs = [pair("near", 0, 1.0), pair("near", 1, 1.1)]
    write(Setting(), pairs, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [run["live_mean_s"] for run in document["runs"]] == pytest.approx([2.0, 2.2])
    assert document["rows"][0]["mean"]["ratio"]["estimate"] == pytest.approx(1.05)
    assert (tmp_path / "faithful.png").stat().st_size > 1000
    assert [table.row_count for table in tables(rows(pairs))] == [1, 1, 1]


@pytest.mark.slow
def test_a_short_comparison_from_the_command_line(tmp_path):
    argv = [sys.executable, "-m", "testbed", "faithful", "--rounds", "1", "--run-s", "1"]
    argv += ["--utilisation", "0.4", "--report", str(tmp_path)]
    with Children() as children:
        command = children.start("faithful", argv)
        # 1 if a mean of so short a run is far off, which is not this test's business.
        assert command.wait(100.0) in (0, 1)
        assert any("p99 latency" in line for line in command.output())
    document = json.loads((tmp_path / "results.json").read_text())
    methods = [row["method"] for row in document["rows"]]
    assert methods == ["rr", "lsq", "sed-true", "sed-wrong", "ewma"]
    for run in document["runs"]:
        assert 0.0 < run["live_mean_s"] < TIMEOUT_S
        assert run["overhead"]["inside_s"] > 0.0
