"""What a scrape says is what was carried, also after a worker died."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo
from lbd_client import FakeAgent, ask, settled
from lbd_waiting import until
from prometheus_client.parser import text_string_to_metric_families

from lbd.metrics import (
    AGENT_REALS,
    AGENT_TOTALS,
    COUNTED_BY_HISTOGRAMS,
    FAMILIES,
    HISTOGRAMS,
    PROCESS_ROW,
    SERVER_TOTALS,
    SERVICE_TOTALS,
)
from lbd.metrics_reference import page
from shm.layout import AGENT_REALS as REAL_WORDS
from shm.layout import AGENT_SCALARS, SCALARS, TOTALS
from shm.layout import HISTOGRAMS as KINDS

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=120) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return answer.read().decode()


def scrape(address: str) -> Samples:
    """{(sample name, its labels but the service): value}."""
    return {
        (sample.name, frozenset(sample.labels.items() - service(sample.labels))): sample.value
        for family in text_string_to_metric_families(fetch(address))
        for sample in family.samples
    }


def service(labels: dict[str, str]) -> set[tuple[str, str]]:
    return {("service", labels["service"])} if "service" in labels else set()


def value(seen: Samples, name: str, **labels: str) -> float:
    return seen[name, frozenset(labels.items())]


def total(seen: Samples, name: str) -> float:
    """Over all backends and further labels."""
    return sum(amount for (sample, _), amount in seen.items() if sample == name)


def test_every_counter_has_a_metric() -> None:
    def rows(totals: tuple) -> set[str]:
        return {row for one in totals for row in one.rows}

    assert rows(SERVER_TOTALS) | COUNTED_BY_HISTOGRAMS == set(TOTALS)
    assert rows(SERVICE_TOTALS) | {PROCESS_ROW} == {
        name for name in SCALARS if name.endswith("_total")
    }
    assert rows(AGENT_TOTALS) == {name for name in AGENT_SCALARS if name.endswith("_total")}
    assert tuple(HISTOGRAMS) == KINDS
    assert tuple(AGENT_REALS) == REAL_WORDS


def test_the_reference_page_is_the_code_s() -> None:
    assert (ld.ROOT / "docs" / "metrics.md").read_text() == page()
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(f"`{family.name}`" in page() for family in FAMILIES)


def test_a_scrape_tells_what_was_carried_and_never_goes_back(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], policy="rr")
    service["backends"][1]["weight"] = 2.5
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, metrics=metrics)
    for _ in range(20):
        assert ask(service, b"12345") == b"12345"
    settled(service["name"], 20)
    seen = scrape(metrics)

    for name in ("sessions_total", "completed_total", "connect_time_seconds_count"):
        assert total(seen, f"lbd_server_{name}") == 20
    assert total(seen, "lbd_server_bytes_in_total") == 100
    assert total(seen, "lbd_server_bytes_out_total") == 100
    own = value(seen, "lbd_server_sessions_total", backend="b0")
    assert 9 <= own <= 11  # each worker takes turns of its own
    for kind in ("connect", "response", "total"):
        name = f"lbd_server_{kind}_time_seconds"
        assert value(seen, f"{name}_bucket", backend="b0", le="+Inf") == own
        assert 0 < value(seen, f"{name}_sum", backend="b0") < 20
    response_s = total(seen, "lbd_server_response_time_seconds_sum")
    assert response_s < total(seen, "lbd_server_total_time_seconds_sum")
    assert value(seen, "lbd_frontend_connections_total") == 20
    assert value(seen, "lbd_frontend_limit_sessions") == 10_000
    assert value(seen, "lbd_server_configured_weight", backend="b1") == 2.5
    assert value(seen, "lbd_server_weight", backend="b1") == 2.5
    assert total(seen, "lbd_server_current_sessions") == 0
    assert value(seen, "lbd_agent_up") == 0
    assert value(seen, "lbd_process_workers") == 2

    os.kill(one.workers()[0], signal.SIGKILL)
    last = seen
    seen = until(lambda: _restarted(scrape(metrics)), "the restart counted")
    for _ in range(10):
        ask(service)
        seen = scrape(metrics)
        for key, amount in seen.items():
            if key[0].endswith(("_total", "_bucket", "_sum", "_count")):
                assert amount >= last[key], key
        last = seen
    until(
        lambda: value(scrape(metrics), "lbd_frontend_connections_total") == 30, "all flows counted"
    )


def _restarted(seen: Samples) -> Samples:
    return seen if value(seen, "lbd_worker_restarts_total") == 1 else {}


def test_weights_are_told_as_configured_and_as_in_effect(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], weights="agent")
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(service, metrics=metrics)
    agent = FakeAgent(service["name"])
    agent.give(3.0, 0.5)
    agent.block.set_real("reward", -0.25)
    until(lambda: value(scrape(metrics), "lbd_agent_weights_in_force") == 1, "weights in force")
    agent.give(3.0, -1.0)
    refused = "lbd_weight_frames_refused_total"
    until(lambda: value(scrape(metrics), refused, reason="invalid") == 1, "a frame refused")
    agent.give(3.0, 0.5)
    seen = until(
        lambda: (
            seen if value(seen := scrape(metrics), "lbd_weight_frames_applied_total") == 2 else None
        ),
        "the next one applied",
    )
    assert value(seen, "lbd_server_weight", backend="b0") == 3.0
    assert value(seen, "lbd_server_weight", backend="b1") == 0.5
    assert value(seen, "lbd_server_configured_weight", backend="b1") == 1.0
    assert value(seen, "lbd_agent_up") == 1
    assert value(seen, "lbd_agent_reward") == -0.25
    assert 0 <= value(seen, "lbd_agent_weights_age_seconds") < 20
    assert ("lbd_agent_entropy_nats", frozenset()) not in seen
    agent.close()
    until(lambda: value(scrape(metrics), "lbd_agent_up") == 0, "the agent gone")


def test_promtool_has_nothing_to_object_to(daemon: Start, backend: Make, promtool: str) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], weights="agent")
    service["backends"][0]["max_connections"] = 5
    service["load"] = "exchanges"
    service["health"] = {"check": {"interval_ms": 20}}
    metrics = f"127.0.0.1:{ld.free_port()}"
    # One more, which it hears.
    other = {**service, **ld.service([]), "shared_as": service["name"]}
    other["backends"] = service["backends"]
    members = [f"127.0.0.1:{port}" for port in ld.free_ports(2)]
    for one, own, settings in ((service, 0, {"metrics": metrics}), (other, 1, {})):
        daemon(one, peers={"listen": members[own], "members": members}, **settings)
    agent = FakeAgent(service["name"])
    agent.give(3.0, 0.5)
    agent.block.beat(1)
    for name in REAL_WORDS:
        agent.block.set_real(name, 0.5)
    agent.block.set("mode", 1)
    ask(service)
    until(lambda: ld.state_word(service["name"], "b1", "checks_total"), "a check")
    until(lambda: "lbd_peer_heard_age_seconds" in fetch(metrics), "the other one heard")
    text = fetch(metrics)
    agent.close()
    ended = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert told == {family.name for family in FAMILIES}


@pytest.fixture
def promtool(debian_tool: Callable[[str], str]) -> str:
    return debian_tool("promtool")


def test_a_real_prometheus_scrapes_it(
    daemon: Start, backend: Make, prometheus: Callable[[str], Callable[[str], float | None]]
) -> None:
    service = ld.service([backend(echo).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(service, metrics=metrics)
    for _ in range(5):
        ask(service)
    settled(service["name"], 5)
    query = prometheus(metrics)
    until(lambda: query("lbd_frontend_connections_total") == 5, "Prometheus to know of the flows")
    assert query("lbd_server_total_time_seconds_count") == 5
    slowest = query("histogram_quantile(1, lbd_server_total_time_seconds_bucket)")
    assert slowest is not None
    assert 0 < slowest < 64


def test_the_metrics_page_answers_nothing_else(daemon: Start, backend: Make) -> None:
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(ld.service([backend(echo).address]), metrics=metrics)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{metrics}/nothing", timeout=120)
    assert refused.value.code == 404
    refused.value.close()
