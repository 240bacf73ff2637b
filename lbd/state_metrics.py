"""Metrics of the backends' states, read out of shared memory at each scrape.

Lives here: their families; names are those of HAProxy's exporter where it has one. Never here: the
other families (`lbd.metrics`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from lbd.exposition import Exposition, Family
from shm import layout as lo
from shm.region import Region, SlotEntry
from shm.states import LABELS, label, state_rows

_SERVER: Final = ("service", "backend")

STATUS: Final = Family(
    "lbd_server_status", "gauge", "1 for the state the backend is in.", (*_SERVER, "state")
)
UP: Final = Family("lbd_server_up", "gauge", "Whether the backend may get new flows.", _SERVER)
SHARE: Final = Family(
    "lbd_server_share", "gauge", "Part of its fair share of flows: slow start, feedback.", _SERVER
)
LIMIT: Final = Family(
    "lbd_server_limit_sessions", "gauge", "Flows at once at most; absent without one.", _SERVER
)
CHECK: Final = Family(
    "lbd_server_check_duration_seconds",
    "gauge",
    "How long the last check took; absent before it.",
    _SERVER,
)
COUNTERS: Final = {
    row: Family(name, "counter", text, _SERVER)
    for row, name, text in (
        ("checks_total", "lbd_server_checks_total", "Active checks made."),
        ("checks_failed_total", "lbd_server_check_failures_total", "Active checks that failed."),
        (
            "downs_total",
            "lbd_server_check_up_down_total",
            "Times that checks took the backend down.",
        ),
        ("ejections_total", "lbd_server_ejections_total", "Ejections by what flows told."),
        (
            "ejections_refused_total",
            "lbd_server_ejections_refused_total",
            "Ejections left undone because max_ejected were out already.",
        ),
    )
}
STATE_FAMILIES: Final = (STATUS, UP, SHARE, LIMIT, CHECK, *COUNTERS.values())


def add_states(out: Exposition, services: Iterable[tuple[Region, Sequence[SlotEntry]]]) -> None:
    """All families, of the backends of all services."""
    samples: dict[Family, list[tuple[Sequence[str], float]]] = {f: [] for f in STATE_FAMILIES}
    for region, entries in services:
        rows = state_rows(region).copy()
        shares = rows[lo.STATE["share"]].view("<f8")
        usable = set(region.usable_slots().tolist())
        for entry in entries:
            at = (region.service, entry.name)
            word = {row: int(rows[index, entry.slot]) for row, index in lo.STATE.items()}
            state = label(word["flags"])
            samples[STATUS] += [((*at, name), int(name == state)) for name in LABELS]
            samples[UP].append((at, int(entry.slot in usable)))
            samples[SHARE].append((at, float(shares[entry.slot])))
            if word["max_flows"]:
                samples[LIMIT].append((at, word["max_flows"]))
            if word["checks_total"]:
                samples[CHECK].append((at, word["check_ns"] * 1e-9))
            for row, family in COUNTERS.items():
                samples[family].append((at, word[row]))
    for family, found in samples.items():
        out.add(family, found)
