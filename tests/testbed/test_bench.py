"""The benchmarks' own machinery: a small run that must come out right, and the file of results."""

from __future__ import annotations

import json
from pathlib import Path

from testbed.bench import flows
from testbed.bench.command import store


def test_a_few_flows_arrive_whole_and_their_accounts_close():
    found = flows.run(50)
    assert found.pop("seconds") > 0
    assert found == {
        "flows": 50,
        "identical": 50,
        "mismatched": 0,
        "q_left": 0,
        "totals_add_up": True,
    }


def test_results_of_one_bench_leave_the_others_in_the_file(tmp_path: Path):
    path = tmp_path / "new" / "results.json"
    store(path, {"cores": 2, "step": {"ms": 1.0}, "flows": {"flows": 1}})
    store(path, {"cores": 4, "flows": {"flows": 2}})
    assert json.loads(path.read_text()) == {"cores": 4, "step": {"ms": 1.0}, "flows": {"flows": 2}}
