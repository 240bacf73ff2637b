"""Metrics of the daemon itself: workers started again, and what its own bounds have dropped.

Lives here: their families, and what the supervisor tells for them. Never here: who counts it; the
endpoint, the other families (`lbd.metrics`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lbd.exposition import Exposition, Family


@dataclass(frozen=True)
class Process:
    """What the supervisor has counted since it was started; log lines are its own process's."""

    restarts_total: int = 0
    log_lines_dropped_total: int = 0
    messages_dropped_total: int = 0
    viewers_refused_total: int = 0
    http_full_total: int = 0
    http_silent_total: int = 0


RESTARTS: Final = Family("lbd_worker_restarts_total", "counter", "Workers started again.")
LOG_DROPS: Final = Family(
    "lbd_process_log_drops_total",
    "counter",
    "Log lines of all processes, events' and flows', that were dropped: the log was not taken fast "
    "enough, or could not be written.",
)
MESSAGE_DROPS: Final = Family(
    "lbd_process_message_drops_total",
    "counter",
    "Messages to workers that were not sent: too many waited, it was too large, the worker had "
    "ended.",
)
VIEWERS_REFUSED: Final = Family(
    "lbd_process_viewers_refused_total",
    "counter",
    "Viewers of the status page refused: there were as many as there may be.",
)
HTTP_REFUSED: Final = Family(
    "lbd_process_http_refused_total",
    "counter",
    "Connections to the metrics address and the runtime API closed unheard. full: there were as "
    "many as there may be; silent: no request came.",
    ("reason",),
)
PROCESS_FAMILIES: Final = (RESTARTS, LOG_DROPS, MESSAGE_DROPS, VIEWERS_REFUSED, HTTP_REFUSED)


def add_process(out: Exposition, process: Process, workers_log_lines_dropped_total: int) -> None:
    """All families; what workers count is read out of their blocks by who calls this."""
    lines = process.log_lines_dropped_total + workers_log_lines_dropped_total
    out.add(RESTARTS, [((), process.restarts_total)])
    out.add(LOG_DROPS, [((), lines)])
    out.add(MESSAGE_DROPS, [((), process.messages_dropped_total)])
    out.add(VIEWERS_REFUSED, [((), process.viewers_refused_total)])
    refused = {"full": process.http_full_total, "silent": process.http_silent_total}
    out.add(HTTP_REFUSED, [((reason,), total) for reason, total in refused.items()])
