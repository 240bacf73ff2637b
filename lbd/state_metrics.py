"""Metrics of the backends' states and of the queues, read out of shared memory at each scrape.

Lives here: names and labels; those of HAProxy's exporter where it has one. Never here: the endpoint
(`lbd.metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shm import layout as lo
from shm.region import Region
from shm.states import LABELS, label, state_rows
from shm.worker import scalars_view

COUNTERS = {
    "checks_total": ("lbd_server_checks_total", "Active checks made."),
    "checks_failed_total": ("lbd_server_check_failures_total", "Active checks that failed."),
    "downs_total": ("lbd_server_check_up_down_total", "Times that checks took the backend down."),
    "ejections_total": ("lbd_server_ejections_total", "Ejections by what flows told."),
    "ejections_refused_total": (
        "lbd_server_ejections_refused_total",
        "Ejections left undone because max_ejected were out already.",
    ),
}


def state_metrics(regions: Sequence[Region]) -> list[Metric]:
    """All families, for all services."""
    labels = ["service", "backend"]
    status = GaugeMetricFamily(
        "lbd_server_status", "1 for the state the backend is in.", labels=[*labels, "state"]
    )
    usable = GaugeMetricFamily(
        "lbd_server_up", "Whether the backend may get new flows.", labels=labels
    )
    share = GaugeMetricFamily(
        "lbd_server_share", "Part of its fair share of flows: slow start, feedback.", labels=labels
    )
    limit = GaugeMetricFamily(
        "lbd_server_limit_sessions", "Flows at once at most; absent without one.", labels=labels
    )
    check = GaugeMetricFamily(
        "lbd_server_check_duration_seconds", "How long the last check took.", labels=labels
    )
    counters = {
        row: CounterMetricFamily(name, text, labels=labels)
        for row, (name, text) in COUNTERS.items()
    }
    queued = GaugeMetricFamily(
        "lbd_current_queue", "Flows that wait for a backend with room.", labels=["service"]
    )
    for region in regions:
        rows = state_rows(region).copy()
        in_use = set(region.usable_slots().tolist())
        for entry in region.entries():
            at = [region.service, entry.name]
            word = {row: int(rows[index, entry.slot]) for row, index in lo.STATE.items()}
            state = label(word["flags"])
            for name in LABELS:
                status.add_metric([*at, name], float(name == state))
            usable.add_metric(at, float(entry.slot in in_use))
            share.add_metric(at, float(rows[lo.STATE["share"]].view("<f8")[entry.slot]))
            if word["max_flows"]:
                limit.add_metric(at, word["max_flows"])
            if word["checks_total"]:
                check.add_metric(at, word["check_ns"] * 1e-9)
            for row, family in counters.items():
                family.add_metric(at, word[row])
        waiting = sum(
            int(scalars_view(region, worker)[lo.SCALAR["queued"]])
            for worker in range(region.layout.workers)
        )
        queued.add_metric([region.service], waiting)
    return [status, usable, share, limit, check, *counters.values(), queued]
