"""What a scrape says is what was carried, also after a worker died."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Callable

import lbd_daemon as ld
from lbd_backends import Backend, echo
from lbd_client import ask, settled
from lbd_waiting import until
from prometheus_client.parser import text_string_to_metric_families

from lbd.metrics import _HELP, _SCALAR_HELP
from shm.layout import SCALARS, TOTALS

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
Samples = dict[tuple[str, str], float]


def scrape(address: str) -> Samples:
    """{(sample name, backend): value}."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("backend", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_counter_has_a_metric() -> None:
    assert set(_HELP) == set(TOTALS)
    assert set(_SCALAR_HELP) == {name for name in SCALARS if name.endswith("_total")}


def test_a_scrape_tells_what_was_carried_and_never_goes_back(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], policy="rr")
    service["backends"][1]["weight"] = 2.5
    metrics = f"127.0.0.1:{ld.free_port()}"
    one = daemon(service, workers=2, metrics=metrics)
    for _ in range(20):
        assert ask(service, b"12345") == b"12345"
    settled(service["name"], 20)
    seen = scrape(metrics)

    def total(name: str) -> float:
        return sum(seen["lbd_server_" + name, b] for b in ("b0", "b1"))

    assert total("sessions_total") == total("connected_total") == total("completed_total") == 20
    assert total("bytes_in_total") == total("bytes_out_total") == 100
    assert 0 < total("duration_seconds_total") < total("fct_seconds_total")
    assert seen["lbd_accepted_total", ""] == 20
    assert seen["lbd_server_configured_weight", "b1"] == 2.5
    assert total("current_sessions") == 0
    assert ("lbd_server_weight", "b0") not in seen

    os.kill(one.workers()[0], signal.SIGKILL)
    last = seen
    seen = until(lambda: _restarted(scrape(metrics)), "the restart counted")
    for _ in range(10):
        ask(service)
        seen = scrape(metrics)
        for key, value in seen.items():
            if key[0].endswith("_total"):
                assert value >= last[key], key
        last = seen
    until(lambda: scrape(metrics)["lbd_accepted_total", ""] == 30, "all flows counted")


def _restarted(seen: Samples) -> Samples:
    return seen if seen["lbd_worker_restarts_total", ""] == 1 else {}
