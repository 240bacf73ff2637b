"""Metrics of the names that are looked up.

Lives here: their families. Never here: the endpoint, the other families (`lbd.metrics`); counting
(`lbd.names.names`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from config.schema import Service
from lbd.exposition import Exposition, Family
from lbd.names.names import Names

_LOOKUPS: Final = Family(
    "lbd_frontend_name_lookups_total",
    "counter",
    "Look-ups of names of backends.",
    ("service",),
)
_FAILURES: Final = Family(
    "lbd_frontend_name_lookup_failures_total",
    "counter",
    "Look-ups without a usable answer: the last good addresses stayed.",
    ("service",),
)
NAME_FAMILIES: Final = (_LOOKUPS, _FAILURES)


def add_names(out: Exposition, names: Names, services: Sequence[Service]) -> None:
    """All families."""
    for family, counts in ((_LOOKUPS, names.lookups_total), (_FAILURES, names.failures_total)):
        out.add(family, [((service.name,), counts[service.name]) for service in services])
