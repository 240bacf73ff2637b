"""Methods side by side: the papers' tables of latency.

Lives here: nothing but the names; it is what `season` and `report` do.
"""

from __future__ import annotations

from testbed.experiments.report import compared as sections
from testbed.experiments.season import play_all as play

__all__ = ["play", "sections"]
