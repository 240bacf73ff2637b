"""Reads that race writers in other processes, and how many of them are torn.

Lives here: the run of the race, which is part of the repository's tests. Never here: the race.
Where the tests are not there (an installed package) the row says so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from testbed.processes import Children

ROOT = Path(__file__).resolve().parents[2]
RACE = ROOT / "tests" / "shm" / "race.py"
READS = 10_000_000
DEADLINE_S = 1800.0


def run() -> list[dict[str, Any]]:
    """One row a kind of memory and one in total; `control_torn` must not be 0."""
    if not RACE.exists():
        return [{"kind": "all", "note": "not measured: the repository's tests are not here"}]
    with Children() as children:
        argv = [sys.executable, str(RACE), "--json", "--reads", str(READS)]
        race = children.start("race", argv, env={"PYTHONPATH": str(ROOT)})
        race.wait(DEADLINE_S)
        rows: list[dict[str, Any]] = json.loads(race.output()[-1])
    return rows
