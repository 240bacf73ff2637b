"""Short real runs over loopback: every kind of program in a balancer's place, events, resuming."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest

from shm import segment
from shm.layout import Layout
from shm.region import Region
from testbed.experiments import command, schema, season
from testbed.experiments.grounds import ground
from testbed.experiments.methods import start
from testbed.experiments.place import Backend, Place
from testbed.experiments.round import clear
from testbed.experiments.season import UnfitError, play_all
from testbed.experiments.store import Kept, Run, Store
from testbed.experiments.studies import study
from testbed.processes import ChildError, Children

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin"

TOPOLOGY = """\
name: tiny
balancers: {count: 2}
servers:
  - {name: small, cores: 0.2}
  - {name: large, cores: 0.4}
"""

FILE = """\
title: tiny
topology: %(folder)s/tiny-topology.yaml
methods: [%(methods)s]
truth_hz: 20
cases:
  a:
    title: the case
    traffic: {kind: loop, rate_per_s: 40, iterations: 200000}
    events: [{at_s: 0.5, servers: [large], take: 0.75}]
short: {run_s: 1.5, repetitions: 1, settle_s: 0.2}
full: {run_s: 1.5, repetitions: 2, settle_s: 0.2}
"""


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """What is tested does not depend on how busy this host is: no run is repeated for that."""
    monkeypatch.setattr(season, "ATTEMPTS", 1)


def experiment(folder: Path, methods: str, change: tuple[str, str] = ("", "")) -> Path:
    (folder / "tiny-topology.yaml").write_text(TOPOLOGY)
    path = folder / "tiny.yaml"
    text = FILE % {"folder": folder, "methods": methods}
    path.write_text(text.replace(*change) if change[0] else text)
    return path


def available(methods: str) -> str:
    """Those whose programs are on this host."""
    programs = {name.partition("-")[0] for name in methods.split(", ")} & {"haproxy", "nginx"}
    missing = {program for program in programs if shutil.which(program, path=SBIN) is None}
    kept = [name for name in methods.split(", ") if name.partition("-")[0] not in missing]
    return ", ".join(kept)


@pytest.mark.timeout(600)
def test_every_kind_of_method_gets_the_same_requests_and_answers_them(tmp_path):
    methods = available("sed, agent, awcmp, haproxy-leastconn, nginx-least_conn, router-wcmp")
    path = experiment(tmp_path, methods)
    loaded, store = schema.load(path), Store(tmp_path / "out")
    with ground("loopback", tmp_path, {}) as where:
        played = list(play_all(loaded, "tiny", "short", store, where))
        again = list(play_all(loaded, "tiny", "short", store, where))
    runs = {progress.kept.method: progress.kept for progress in played}
    assert set(runs) == set(methods.split(", "))
    planned = [kept.requests()["planned_s"].to_list() for kept in runs.values()]
    assert all(times == planned[0] for times in planned)
    assert len(planned[0]) > 30
    for method, kept in runs.items():
        _check(method, kept)
    assert [progress.fresh for progress in again] == [False] * len(runs)
    sections = study("compare").sections(loaded, "tiny", "short", list(store.runs()), tmp_path)
    rows = sections[-1].tables[0].rows
    assert {row[0] for row in rows} == set(runs)


def _check(method: str, kept: Kept) -> None:
    requests = kept.requests()
    assert set(requests["outcome"]) == {"ok"}, method
    assert requests["latency_s"].min() > 0
    truth = kept.truth()
    assert set(truth["server"]) == {"small1", "large1"}
    assert truth["busy"].max() > 0
    # All work was done by somebody: 40 a second of 4.3 ms each, on one core.
    spent = truth.group_by("server").agg(spent=pl.col("cpu_s").max() - pl.col("cpu_s").min())
    assert spent["spent"].sum() > 0.05
    seen = kept.seen()
    if method in ("sed", "agent", "awcmp"):
        assert set(seen["balancer"]) == {0, 1}
        assert seen["flows"].max() > 0
        assert (seen["written_ns"].max() > 0) == (method != "sed")
        assert kept.record["balancer_cpu_s"] > 0
    else:
        assert seen.is_empty()


@pytest.mark.timeout(300)
def test_probes_and_steps_are_seen(tmp_path):
    change = ("    title: the case", "    title: the case\n    probes_hz: [4.0, 20.0]")
    path = experiment(tmp_path, "agent", change)
    loaded, store = schema.load(path), Store(tmp_path / "out")
    with ground("loopback", tmp_path, {}) as where:
        (progress,) = play_all(loaded, "tiny", "short", store, where)
    probes = progress.kept.table("probes")
    assert set(probes["hz"]) == {4.0, 20.0}
    assert set(probes["server"]) == {"small1", "large1"}
    counts = dict(probes.group_by("hz").len().iter_rows())
    assert counts[20.0] > counts[4.0]
    # One run with both, and a run for each.
    truth, content = progress.kept.table("truth"), progress.kept.record["content"]
    alone = [
        store.put(
            Run(f"at {hz}", "agent", 0, content),
            {"truth": truth, "probes": probes.filter(pl.col("hz") == hz)},
            {},
        )
        for hz in (4.0, 20.0)
    ]
    for runs in ([progress.kept], alone):
        (part,) = study("probing").sections(loaded, "tiny", "short", runs, tmp_path)
        assert [row[0] for row in part.tables[0].rows] == ["4", "20"]
    (part,) = study("steps").sections(loaded, "tiny", "short", [progress.kept], tmp_path)
    assert int(part.tables[0].rows[0][1]) >= 2


def test_what_a_killed_run_left_is_removed_and_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, live = (f"round-{secrets.token_hex(4)}" for _ in range(2))
    killed = (
        "import os, sys; from shm.layout import Layout; from shm.region import Region;"
        "region = Region.create(sys.argv[1], Layout(1, 4, 2)); os._exit(0)"
    )
    child = subprocess.Popen([sys.executable, "-c", killed, dead])
    assert child.wait() == 0
    folders = [f"lbd-round-{pid}-abc" for pid in (child.pid, os.getpid())]
    for folder in (*folders, "lbd-round-abc", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan.tsv").touch()
    region = Region.create(live, Layout(1, 4, 2))
    try:
        assert dead in segment.present()
        clear()
        assert dead not in segment.present()
        assert live in segment.present()
    finally:
        region.remove()
        region.close()
    # Whose process is gone by its number.
    assert {path.name for path in tmp_path.iterdir()} == {folders[1], "lbd-round-abc", "other"}


def test_burners_need_a_cpu_of_their_own(tmp_path):
    path = experiment(tmp_path, "sed", ("take: 0.75", "burn: 2"))
    with pytest.raises(UnfitError, match="the case: burners"):
        next(
            play_all(
                schema.load(path),
                "tiny",
                "short",
                Store(tmp_path),
                ground("loopback", tmp_path, {}),
            )
        )


def test_the_command_names_what_it_cannot_read(tmp_path, capsys):
    path = experiment(tmp_path, "sed", ("run_s: 1.5", "run_s: soon"))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([str(path)])) == command.EXIT_USAGE
    assert f"{path}:10: short.run_s" in capsys.readouterr().err


def test_a_method_that_cannot_start_leaves_nothing(tmp_path):
    # Nothing is at that address of the host's: the daemon cannot listen there.
    place = Place("tiny-none", subprocess.Popen, "192.0.2.1", 9, tmp_path)
    with Children() as children:
        standing = start("sed", place, [Backend("a", "127.0.0.1", 1, 1.0)], children)
        with pytest.raises(ChildError, match="lbd tiny-none ended"):
            standing.wait()
    assert not list(Path("/dev/shm").glob("*tiny-none*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["reading", "decision"])
def test_the_studies_of_costs_have_a_row_a_way(tmp_path, name):
    loaded, store = schema.load(schema.find(name)), Store(tmp_path / "out")
    work = study(loaded.kind)
    with ground("loopback", tmp_path, {}) as where:
        (progress,) = work.play(loaded, name, "short", store, where)
        again = list(work.play(loaded, name, "short", store, where))
    assert progress.fresh
    (part,) = work.sections(loaded, name, "short", [progress.kept], tmp_path)
    assert len(part.tables[0].rows) >= 5
    assert [progress.fresh for progress in again] == [False]
