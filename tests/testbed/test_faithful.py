"""The two worlds: the twin against the servers' own discipline, the figures, a short real run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from lbd.dispatch import POLICIES
from testbed.faithful import twin
from testbed.faithful.compare import STARTS_S, Pair, expected_s, pair, turns
from testbed.faithful.figures import rows
from testbed.faithful.kept import Kept
from testbed.faithful.live import LiveRun, Overhead
from testbed.faithful.report import BEGIN, END, PageError, put, tables, write
from testbed.faithful.setting import METHODS, TIMEOUT_S, Setting
from testbed.load.arrivals import Plan
from testbed.load.result import RECORD, Outcome, Result
from testbed.processes import Children
from testbed.server.discipline import BlockedProcessorSharing
from testbed.sim.policies import rule
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
    requests = twin.workload(plan, lived(plan, overhead).sent_s(), overhead)
    simulated = twin.run(LONE, LONE.methods[0], requests, seed=1)
    expected = by_discipline(plan, overhead.inside_s) + overhead.outside_s
    served = ~np.isnan(expected)
    assert 0 < served.sum() < len(plan)  # some are rejected, by both
    np.testing.assert_allclose(simulated.fct_s[served], expected[served], atol=1e-7)
    assert (simulated.fct_s[~served] == TIMEOUT_S).all()


def test_the_twins_requests_leave_when_the_live_ones_left():
    plan = LONE.plan(0)
    run = lived(plan, Overhead(0.0, 0.0), lag_s=0.5)
    workload = twin.workload(plan, run.sent_s(), run.overhead)
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


def test_every_rule_of_lbd_is_compared_and_the_twin_plays_it():
    """But the two that tell clients apart by their address: here they have one."""
    assert {method.policy for method in METHODS} == {*POLICIES} - {"maglev", "source_hash"}
    for method in METHODS:
        played = rule(twin.rule_name(method))
        assert (played.controller is not None) == method.agent
        if method.memory_flows is not None:
            assert played.memory_flows == method.memory_flows
        if method.weights is not None:
            of = twin.scenario(Setting(), method)
            assert of.configured_weights().tolist() == list(method.weights.values())


def test_each_round_begins_with_another_method():
    methods = METHODS[:3]
    order = [(method.name, number) for method, number in turns(Setting(methods=methods, rounds=3))]
    names = [method.name for method in methods]
    assert [names.index(name) for name, _ in order] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert [number for _, number in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_run_is_expected_to_last_until_its_queues_are_empty():
    easy, hard = (Setting(run_s=5.0, utilisation=share) for share in (0.1, 0.75))
    by_name = {method.name: method for method in METHODS}
    assert 5.0 <= expected_s(easy, by_name["rr"]) - STARTS_S < 6.0
    assert expected_s(hard, by_name["rr"]) > expected_s(hard, by_name["sed-true"]) + 2.0


def test_a_live_run_is_kept_for_the_same_setting_and_method_only(tmp_path):
    plan = LONE.plan(2)
    run = lived(plan, Overhead(0.001, 0.002), lag_s=0.25)
    method = LONE.methods[0]
    kept = Kept(tmp_path / "runs", LONE)
    assert kept.get(method, 2) is None
    kept.put(method, 2, run)
    again = Kept(tmp_path / "runs", replace(LONE, rounds=9, methods=METHODS)).get(method, 2)
    assert again is not None
    assert (again.overhead, again.busy) == (run.overhead, run.busy)
    np.testing.assert_array_equal(again.result.table, run.result.table)
    np.testing.assert_array_equal(
        pair(LONE, method, 2, again).simulated_s, pair(LONE, method, 2, run).simulated_s
    )
    assert kept.get(method, 1) is None
    assert kept.get(replace(method, weights={"a": 2.0}), 2) is None
    assert Kept(tmp_path / "runs", replace(LONE, seed=2)).get(method, 2) is None
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lsq-2.npz"]


def measured(method: str, round_number: int, factor: float) -> Pair:
    """Live latencies `factor` times as long as simulated ones, which differ by the tie seed."""
    simulated_s = np.array([[0.9, 1.9, 2.9], [1.1, 2.1, 3.1]])
    live_s = factor * np.array([1.0, 2.0, 3.0])
    overhead = Overhead(0.001 * round_number, 0.002)
    return Pair(method, round_number, live_s, simulated_s, overhead, 1, 0.25, 0.003)


def test_figures_are_ratios_over_rounds():
    found = rows([measured("near", 0, 1.0), measured("near", 1, 1.1), measured("far", 0, 1.2)])
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
    pairs = [measured("near", 0, 1.0), measured("near", 1, 1.1)]
    write(Setting(), pairs, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [run["live_mean_s"] for run in document["runs"]] == pytest.approx([2.0, 2.2])
    assert document["rows"][0]["mean"]["ratio"]["estimate"] == pytest.approx(1.05)
    assert (tmp_path / "faithful.png").stat().st_size > 1000
    assert [table.row_count for table in tables(rows(pairs))] == [1, 1, 1]


def test_a_page_gets_the_tables_between_its_marks_and_the_picture(tmp_path):
    pairs = [measured("near", 0, 1.0), measured("near", 1, 1.1), measured("far", 0, 1.2)]
    write(Setting(), pairs, tmp_path / "report")
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        put(tmp_path / "report", page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[1], lines[-2], lines[-1]) == ("before", BEGIN, END, "after")
    assert "old" not in lines
    near = next(line for line in lines if line.startswith("| `near` | 2100.0 |"))
    assert near.startswith("| `near` | 2100.0 | 2000.0 | 1.050 (1.000 to 1.100) | ±0.050 |")
    assert "Means that differ by more than 10 %: `far`." in lines
    assert (page.parent / "img" / "faithful.png").stat().st_size > 1000


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_the_marks_is_left_alone(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(PageError, match=r"page\.md: needs the lines"):
        put(tmp_path, page)
    assert page.read_text() == text


@pytest.mark.slow
def test_a_short_comparison_from_the_command_line(tmp_path):
    argv = [sys.executable, "-m", "testbed", "faithful", "--rounds", "1", "--run-s", "1"]
    argv += ["--utilisation", "0.4", "--report", str(tmp_path), "--methods"]
    with Children() as children:
        for methods, says in (
            ("rr,agent", "runs to go: 2"),
            ("ewma-20,agent", "runs to go: 1"),
            ("agent,rr", "all of them are there"),
        ):
            command = children.start("faithful", [*argv, methods])
            # 1 if a mean of so short a run is far off, which is not this test's business.
            assert command.wait(100.0) in (0, 1)
            assert any(says in line for line in command.output())
            assert any("p99 latency" in line for line in command.output())
    document = json.loads((tmp_path / "results.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["rr", "ewma-20", "agent"]
    for run in document["runs"]:
        assert 0.0 < run["live_mean_s"] < TIMEOUT_S
        assert run["overhead"]["inside_s"] > 0.0
