"""`python -m testbed league` as a user runs it: real processes, real files."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL

import polars as pl
import pytest
from league_suite import SUITE_YAML

# The first run of a simulator that has changed compiles it, on a busy machine for minutes.
COMPILE_S = 500.0
pytestmark = pytest.mark.timeout(COMPILE_S + 60)


@pytest.fixture
def league(tmp_path):
    (tmp_path / "mine.yaml").write_text(SUITE_YAML)

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "testbed", "league", "--suite", "mine.yaml", *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            check=False,
        )

    return run


def test_a_league_leaves_runs_ratios_tables_and_plots(league, tmp_path):
    flags = ("--policies", "sed,lsq,ewma", "--seeds", "3", "--jobs", "2")
    first = league(*flags)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "report" / "league" / "mine"
    assert {path.name for path in folder.iterdir()} == {
        "runs.parquet",
        "ratios.parquet",
        "results.md",
        "map_mean.png",
        "map_p99.png",
        "overall.png",
    }
    runs = pl.read_parquet(folder / "runs.parquet")
    # The reference comes along unasked.
    assert set(runs["policy"]) == {"sed-global", "sed", "lsq", "ewma"}
    assert len(runs) == 2 * 4 * 3
    ratios = pl.read_parquet(folder / "ratios.parquet")
    assert len(ratios) == 2 * 2 * 4 * 2
    assert set(ratios["against"].filter(ratios["beside"] == "reference")) == {"sed-global"}
    wrong = ratios.filter(scenario="misconfigured", policy="sed", beside="reference")
    assert wrong["ratio"].min() > 1.1
    page = (folder / "results.md").read_text()
    assert all(image in page for image in ("map_mean.png", "overall.png"))
    assert "| goal | 1.50 / 1.50 | - |" in page
    assert "Worst scenario of each kind" in first.stdout

    again = league(*flags)
    assert again.returncode == 0
    assert pl.read_parquet(folder / "runs.parquet").equals(runs)


def test_only_the_scenarios_asked_for_are_played(league, tmp_path):
    flags = ("--policies", "rr", "--seeds", "1", "--jobs", "1", "--out", "here")
    assert league("--scenarios", "equal", *flags).returncode == 0
    assert set(pl.read_parquet(tmp_path / "here" / "runs.parquet")["scenario"]) == {"equal"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--policies", "sed,nobody"), "no rule 'nobody'"),
        (("--scenarios", "nothing"), "no scenario 'nothing' in the suite; known: equal"),
        (("--suite", "nowhere"), "no suite 'nowhere'"),
        (("--seeds", "0"), "must be at least 1"),
    ],
)
def test_what_is_not_there_is_said(league, flags, words):
    ended = league(*flags)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_killed_league_leaves_no_processes(tmp_path):
    (tmp_path / "mine.yaml").write_text(SUITE_YAML.replace("duration_s: 4", "duration_s: 4000"))
    command = ["-m", "testbed", "league", "--suite", "mine.yaml", "--policies", "lsq"]
    with subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=DEVNULL) as league:
        try:
            children = Path(f"/proc/{league.pid}/task/{league.pid}/children")
            # A worker, and the tracker of multiprocessing.
            deadline_s = time.monotonic() + COMPILE_S
            while len(workers := children.read_text().split()) < 2:
                assert league.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            handles = [os.pidfd_open(int(pid)) for pid in workers]
        finally:
            league.kill()
    for handle in handles:
        with os.fdopen(handle):
            # A handle is readable when its process has ended.
            assert select.select([handle], [], [], 60.0)[0]
