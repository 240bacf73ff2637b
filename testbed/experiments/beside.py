"""The papers' figures, as ratios to their own SED: what stands beside ours.

Lives here: reading `beside.yaml`, and the ratio. Never here: our figures.
Milliseconds of another machine say nothing here; a ratio to the same method in the same place does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from testbed.experiments.figures import REFERENCE

_FILE = Path(__file__).parent / "beside.yaml"

TITLES = {"cikm": "RLB-QMIX paper", "mpg": "Markov-potential-game paper"}

LEARNED = ("Distr-LB", "QMix-LB", "RLB-QMIX", "RLB-I-SAC", "RLB-S-SAC")
"""What the papers' learned methods are called; ours is `agent`."""


@dataclass(frozen=True)
class Column:
    """A column of a table: `paper/table-column`, seconds by method, and which figure these are."""

    name: str
    figure: str
    seconds: Mapping[str, float]

    @property
    def title(self) -> str:
        """For the head of a table."""
        paper, _, column = self.name.partition("/")
        return f"{paper} {column}"

    def ratio(self, method: str) -> float | None:
        """To the same column's SED; None where the paper has no such method."""
        if method not in self.seconds:
            return None
        return self.seconds[method] / self.seconds[REFERENCE]


@cache
def columns() -> Mapping[str, Column]:
    """All, by name."""
    found = {}
    for paper, tables in yaml.safe_load(_FILE.read_text()).items():
        for name, values in tables.items():
            seconds = {k: float(v) for k, v in values.items() if k not in ("rate_per_s", "figure")}
            full = f"{paper}/{name}"
            found[full] = Column(full, values["figure"], seconds)
    return found
