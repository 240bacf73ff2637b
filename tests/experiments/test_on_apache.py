"""The experiments on real machines: Apache in namespaces, its scoreboard, sensors, the router."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from testbed.experiments import schema, season
from testbed.experiments.grounds import ground
from testbed.experiments.season import play_all
from testbed.experiments.store import Store
from testbed.lab.topology import load_topology
from tests.lab.lab_here import driver, left_of, need

TOPOLOGY = """\
name: exp
balancers: {count: 2}
servers:
  - {name: small, cores: 0.3, workers: 8}
  - {name: large, cores: 0.6, workers: 8}
"""

FILE = """\
title: on apache
topology: %(folder)s/exp.yaml
methods: [%(methods)s]
truth_hz: 20
cases:
  a:
    title: the case
    probes_hz: [10.0]
    traffic: {kind: loop, rate_per_s: 15, iterations: 300000}
    events: [{at_s: 0.5, servers: [large], take: 0.2, burn: 1}]
short: {run_s: 2, repetitions: 1, settle_s: 0.2}
full: {run_s: 2, repetitions: 1, settle_s: 0.2}
"""


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """What is tested does not depend on how busy this host is: no run is repeated for that."""
    monkeypatch.setattr(season, "ATTEMPTS", 1)


@pytest.mark.timeout(900)
def test_methods_on_apache(tmp_path: Path):
    (tmp_path / "exp.yaml").write_text(TOPOLOGY)
    need(load_topology(tmp_path / "exp.yaml"))
    methods = ["awcmp", "router-wcmp"]
    if shutil.which("haproxy", path="/usr/sbin:/usr/bin"):
        methods.append("haproxy-leastconn")
    path = tmp_path / "on-apache.yaml"
    path.write_text(FILE % {"folder": tmp_path, "methods": ", ".join(methods)})
    with driver() as made:
        # As a killed run leaves it, with another site.
        left = load_topology(tmp_path / "exp.yaml").model_copy(update={"name": "run-exp"})
        made.up(
            left.model_copy(update={"balancers": left.balancers.model_copy(update={"count": 1})})
        )
        with ground("namespaces", tmp_path, {}, made.root) as where:
            played = list(
                play_all(schema.load(path), "on-apache", "short", Store(tmp_path / "out"), where)
            )
        # The lab was there for its case only.
        assert made.labs() == {}
    assert [progress.kept.method for progress in played] == methods
    for progress in played:
        kept = progress.kept
        assert set(kept.requests()["outcome"]) == {"ok"}
        truth = kept.truth()
        assert set(truth["server"]) == {"small1", "large1"}
        assert truth["busy"].max() > 0
        spent = {
            str(server): of["cpu_s"].max() - of["cpu_s"].min()
            for (server,), of in truth.group_by(["server"])
        }
        assert min(spent.values()) > 0
        # The burner takes what is left of its server's share, 0.48 of a core from 0.5 s on.
        assert spent["large1"] > 0.3
        shares = truth.filter(pl.col("server") == "large1")["cores"].unique().sort().to_list()
        assert shares == pytest.approx([0.48, 0.6])
        probes = kept.table("probes")
        assert set(probes["server"]) == {"small1", "large1"}
        assert probes.filter(pl.col("busy") > 8).is_empty()
    assert not left_of("lbd-run-exp")
