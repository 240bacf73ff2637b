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
        (("--policies", "awcmp:0,1"), "awcmp:0,1: a period"),
        (("--scenarios", "nothing"), "no scenario 'nothing' in the suite; known: equal"),
        (("--suite", "nowhere"), "no suite 'nowhere'"),
        (("--suite", "empty.yaml"), "empty.yaml: a suite is a mapping"),
        (("--seeds", "0"), "must be a whole number of at least 1, not '0'"),
        (("--jobs", "x"), "must be a whole number of at least 1, not 'x'"),
        (("--cache", "file"), "league: file: file is not a database"),
        (("--cache", "folder"), "league: folder: unable to open"),
        (("--cache", "file/runs"), "league: "),
    ],
)
def test_what_is_not_there_is_said(league, tmp_path, flags, words):
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "file").write_text("none of ours" * 100)
    (tmp_path / "folder").mkdir()
    ended = league(*flags)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.rglob("results.md"))


def test_a_report_that_cannot_be_written_is_said_before_anything_is_played(league, tmp_path):
    (tmp_path / "file").touch()
    ended = league("--out", "file")
    assert ended.returncode == 2
    assert "File exists: 'file'" in ended.stderr
    assert not (tmp_path / "report").exists()


def test_a_scenario_without_a_judged_flow_is_said(league, tmp_path):
    rare = SUITE_YAML.replace("{load: 0.8}", "{rate_per_s: 0.000001}")
    (tmp_path / "mine.yaml").write_text(rare)
    ended = league("--scenarios", "equal", "--policies", "rr", "--jobs", "1")
    assert ended.returncode == 2
    assert "equal, seed " in ended.stderr
    assert "no flow arrives after the warm-up" in ended.stderr


def test_a_scenario_named_twice_is_played_once(league, tmp_path):
    flags = ("--policies", "awcmp:0.5,0.1", "--seeds", "1", "--jobs", "1", "--out", "here")
    assert league("--scenarios", "equal,equal", *flags).returncode == 0
    runs = pl.read_parquet(tmp_path / "here" / "runs.parquet")
    assert runs["policy"].to_list() == ["sed-global", "awcmp:0.5,0.1"]


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
