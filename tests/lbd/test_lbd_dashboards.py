"""The alerts and the dashboard in deploy/, against what the daemon and its agent really export."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from lbd_backends import Backend, echo
from lbd_client import ask
from lbd_waiting import until

from testbed.processes import Children

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
Query = Callable[[str], float | None]

DEPLOY = ld.ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERT_TESTS = DEPLOY / "prometheus" / "alerts_test.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "lbd.json"
METRIC = re.compile(r"\blbd_[a-z_]+\b")


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """(panel, expression), the variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$service", ".*")
            yield panel["title"], expression.replace("$__rate_interval", "10s")


@pytest.fixture
def promtool(debian_tool: Callable[[str], str]) -> str:
    return debian_tool("promtool")


@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", str(ALERTS)],
        ["check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml")],
        ["test", "rules", str(ALERT_TESTS)],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_is_content(promtool: str, command: list[str]) -> None:
    done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_not_firing() -> None:
    firing: dict[str, set[bool]] = {rule["alert"]: set() for rule in rules()}
    for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]:
        series = len({one["series"] for one in test["input_series"]})
        for look in test["alert_rule_test"]:
            fires = len(look.get("exp_alerts", []))
            # What else is in the series, and does not fire, counts as well.
            firing[look["alertname"]] |= {fires > 0} | ({False} if fires < series else set())
    assert firing == {name: {True, False} for name in firing}


def test_a_panel_has_a_place_of_its_own_and_a_unit() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels())


def test_the_provisioned_paths_and_names_fit_together() -> None:
    compose = yaml.safe_load((DEPLOY / "containers" / "compose.yaml").read_text())
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    provider = yaml.safe_load((provisioning / "dashboards" / "lbd.yaml").read_text())
    mounted = {v.split(":")[1] for v in compose["services"]["grafana"]["volumes"]}
    assert provider["providers"][0]["options"]["path"] in mounted
    (datasource,) = source["datasources"]
    assert {p["datasource"]["uid"] for p in panels()} == {datasource["uid"]}
    assert datasource["url"].split("/")[2].split(":")[0] in compose["services"]


def test_every_query_finds_something_where_there_is_traffic_and_an_agent(
    daemon: Start, backend: Make, prometheus: Callable[[str], Query]
) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], weights="agent")
    metrics = f"127.0.0.1:{ld.free_port()}"
    peers = {"listen": f"127.0.0.1:{ld.free_port()}", "members": [f"127.0.0.1:{ld.free_port()}"]}
    agent = {"mode": "learn", "base": "none", "interval_ms": 50}
    one = daemon(service, metrics=metrics, agent=agent, peers=peers)
    stop = threading.Event()

    def carry() -> None:
        while not stop.is_set():
            ask(service)
            stop.wait(0.01)

    traffic = threading.Thread(target=carry)
    with Children() as children:
        children.start("agent", [sys.executable, "-m", "agent", "--config", str(one.path)])
        traffic.start()
        try:
            query = prometheus(metrics)
            for panel, expression in queries():
                until(
                    lambda expression=expression: query(expression) is not None,
                    f"an answer for the panel {panel}: {expression}",
                )
            for rule in rules():
                # Their parts: without a comparison there is always something to see.
                for name in METRIC.findall(rule["expr"]):
                    until(lambda name=name: query(f"count({name})") is not None, name)
            # With traffic: an agent that holds still has no entropy to tell of.
            with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=120) as answer:
                told = set(METRIC.findall(answer.read().decode()))
        finally:
            stop.set()
            traffic.join()
    for path in (ALERTS, ALERT_TESTS, DASHBOARD):
        assert set(METRIC.findall(path.read_text())) <= told, path
