"""Metrics of the backends' states and of the queues before them.

Lives here: their families, and how they are read out of a region. Never here: the endpoint, the
other families (`lbd.metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lbd.exposition import Exposition, Family
from shm import layout as lo
from shm.region import Region, SlotEntry
from shm.states import LABELS, UNHEALTHY, label, state_rows
from shm.worker import scalars_view

_SERVER: Final = ("service", "backend")

STATUS: Final = Family(
    "lbd_server_status", "gauge", "1 for the state that the backend is in.", (*_SERVER, "state")
)
USABLE: Final = Family(
    "lbd_server_usable", "gauge", "Whether the backend may get new flows.", _SERVER
)
SHARE: Final = Family(
    "lbd_server_share",
    "gauge",
    "Part of its fair share of new flows that the backend gets: slow start, its own word.",
    _SERVER,
)
LIMIT: Final = Family(
    "lbd_server_limit_sessions", "gauge", "Flows at once at most; absent without a limit.", _SERVER
)
CHECK_TIME: Final = Family(
    "lbd_server_check_duration_seconds", "gauge", "How long the last check took.", _SERVER
)
TOTALS: Final = {
    "checks_total": Family(
        "lbd_server_checks_total", "counter", "Active checks of the backend.", _SERVER
    ),
    "checks_failed_total": Family(
        "lbd_server_check_failures_total", "counter", "Active checks that failed.", _SERVER
    ),
    "checks_undone_total": Family(
        "lbd_server_check_local_errors_total",
        "counter",
        "Active checks for which this machine lacked means, of which nothing follows.",
        _SERVER,
    ),
    "downs_total": Family(
        "lbd_server_check_up_down_total",
        "counter",
        "Times that checks took the backend down.",
        _SERVER,
    ),
    "ejections_total": Family(
        "lbd_server_ejections_total",
        "counter",
        "Times that the backend was ejected for failing its flows.",
        _SERVER,
    ),
    "ejections_refused_total": Family(
        "lbd_server_ejections_refused_total",
        "counter",
        "Ejections left undone because max_ejected were out already.",
        _SERVER,
    ),
    "feedback_asked_total": Family(
        "lbd_server_agent_checks_total", "counter", "Questions to the server's agent.", _SERVER
    ),
    "feedback_failed_total": Family(
        "lbd_server_agent_check_failures_total",
        "counter",
        "Questions to the server's agent without an answer in time: its last word stays.",
        _SERVER,
    ),
}
QUEUE: Final = Family(
    "lbd_frontend_current_queue",
    "gauge",
    "Flows that wait for a backend with room.",
    ("service",),
)
PANIC: Final = Family(
    "lbd_frontend_panic",
    "gauge",
    "Whether backends found ill are in use because fewer than panic_below are healthy.",
    ("service",),
)
STATE_FAMILIES: Final = (
    STATUS,
    USABLE,
    SHARE,
    LIMIT,
    CHECK_TIME,
    *TOTALS.values(),
    QUEUE,
    PANIC,
)


def add_states(out: Exposition, services: Sequence[tuple[Region, Sequence[SlotEntry]]]) -> None:
    """All families, of the given backends of all services."""
    seen = [one for region, entries in services for one in _backends(region, entries)]
    out.add(STATUS, [((*one.at, name), int(one.state == name)) for one in seen for name in LABELS])
    out.add(USABLE, [(one.at, int(one.usable)) for one in seen])
    out.add(SHARE, [(one.at, one.share) for one in seen])
    out.add(LIMIT, [(one.at, one.word["max_flows"]) for one in seen if one.word["max_flows"]])
    checked = [one for one in seen if one.word["checks_total"]]
    out.add(CHECK_TIME, [(one.at, one.word["check_ns"] * 1e-9) for one in checked])
    for row, family in TOTALS.items():
        out.add(family, [(one.at, one.word[row]) for one in seen])
    panic = {one.at[0] for one in seen if one.usable and one.word["flags"] & UNHEALTHY}
    out.add(PANIC, [((one.service,), int(one.service in panic)) for one, _ in services])
    out.add(QUEUE, [((region.service,), _queued(region)) for region, _ in services])


class _Backend:
    """One backend's words, `words` by row of the layout."""

    def __init__(self, region: Region, entry: SlotEntry, words: list[int], share: float) -> None:
        slot = entry.slot
        self.at = (region.service, entry.name)
        self.word = dict(zip(lo.STATES, words, strict=True))
        self.share = share
        self.state = label(self.word["flags"])
        self.usable = region.words[lo.H_USABLE + slot // 64] >> slot % 64 & 1


def _backends(region: Region, entries: Sequence[SlotEntry]) -> list[_Backend]:
    rows = state_rows(region)[:, [entry.slot for entry in entries]]
    shares = rows[lo.STATE["share"]].view("<f8").tolist()
    seen = zip(entries, rows.T.tolist(), shares, strict=True)
    return [_Backend(region, entry, words, share) for entry, words, share in seen]


def _queued(region: Region) -> int:
    workers = range(region.layout.workers)
    return sum(int(scalars_view(region, worker)[lo.SCALAR["queued"]]) for worker in workers)
