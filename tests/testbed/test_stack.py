"""The whole loop over real TCP: daemon, agent, backends, load, and deaths in any order."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable

import pytest

from shm import segment
from shm.reader import Reader
from shm.weights import newest_weights
from testbed.bench import restart
from testbed.demo.compare import CHANGED, CONFIGURED, Comparer
from testbed.demo.figures import table
from testbed.demo.report import write
from testbed.demo.scenario import METHODS, Scenario
from testbed.processes import Child
from testbed.stack import Stack

DEADLINE_S = 90.0


def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.02)


def load(stack: Stack, duration_s: float, seed: int = 1) -> Child:
    argv = [sys.executable, "-m", "testbed", "load", "--json", "--seed", str(seed)]
    argv += ["--target", f"127.0.0.1:{stack.port['web']}", "--rate", "60", "--mean-ms", "20"]
    return stack.children.start("load", [*argv, "--duration", f"{duration_s:g}"])


def test_weights_reach_the_workers_and_every_request_is_answered():
    with Stack(restart.SPEC) as stack:
        until(lambda: restart.in_force(stack), "weights in force")
        running = load(stack, 3.0)
        running.wait(DEADLINE_S)
        summary = json.loads(running.output()[-1])
        region = stack.region("web")
        assert summary["failures"] == {}

        def published() -> bool:
            """Counters come a moment after what they count."""
            seen = Reader(region).snapshot(time.monotonic_ns())
            return seen.totals["completed_total"].sum() == summary["requests"]

        until(published, "all requests counted as completed")
        seen = Reader(region).snapshot(time.monotonic_ns())
        assert seen.totals["flows_total"].sum() == summary["requests"]
        assert not seen.flows.any()
        assert newest_weights(region) is not None
        name = stack.region_name("web")
        region.close()
    assert name not in segment.present()


KILL = {"agent": restart.kill_agent, "worker": restart.kill_worker, "daemon": restart.kill_daemon}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "order",
    [
        # Half of the orders, in which each is first, second and last once.
        pytest.param(order, marks=pytest.mark.slow if number in (1, 2, 5) else ())
        for number, order in enumerate(itertools.permutations(KILL))
    ],
)
def test_after_kill_9_in_any_order_weights_flow_again(order):
    with Stack(restart.SPEC) as stack:
        until(lambda: restart.in_force(stack), "weights at first")
        running = load(stack, 60.0)
        for victim in order:
            KILL[victim](stack)
            until(lambda: restart.in_force(stack), f"weights after the {victim}")
        running.stop()
        name = stack.region_name("web")
    assert name not in segment.present()


def test_the_demo_compares_all_methods_and_leaves_a_report(tmp_path):
    scenario = Scenario(utilisation=0.3, warm_s=0.0, run_s=1.0, repetitions=2)
    looks = []
    with Stack(scenario.stack()) as stack:
        comparer = Comparer(stack, scenario, lambda *look: looks.append(look), lambda run: None)
        comparison = comparer.run()
    for part in (CONFIGURED, CHANGED):
        rows = table(comparison, part)
        assert [row.method for row in rows] == [method.name for method in METHODS]
        assert all(row.repetitions == 2 and row.requests > 0 for row in rows)
    planned = {run.repetition: [] for run in comparison.runs}
    for run in comparison.runs:
        planned[run.repetition].append(run.result.table["planned_ns"].tolist())
    assert all(plan == plans[0] for plans in planned.values() for plan in plans), "paired arrivals"
    assert looks
    page = write(comparison, tmp_path)
    assert "round robin" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {
        "index.html",
        "latency.png",
        "weights.png",
        "share.png",
        "results.json",
    }
    figures = json.loads((tmp_path / "results.json").read_text())
    assert [len(rows) for rows in figures["methods"].values()] == [len(METHODS)] * 2
