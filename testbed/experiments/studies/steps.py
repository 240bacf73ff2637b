"""How regular the agent's steps are: CIKM figure 12.

Lives here: intervals between weight frames, as looked at from outside. Never here: the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from testbed.experiments import plots
from testbed.experiments.page import Section
from testbed.experiments.report import doubted
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import cases_of, play_all
from testbed.experiments.store import Kept
from testbed.sim.league.summary import Table

play = play_all

_NOTE = (
    "Milliseconds from one frame of weights to the next. The paper's agents wait for each other: "
    "250 ms become 280 to 330, and with six balancers 1.24 times as much (its figure 12); here no "
    "agent knows of another."
)


def intervals_ms(kept: Kept) -> NDArray[np.float64]:
    """Between the frames of each balancer; of frames that no look has caught, none."""
    seen = kept.seen()
    parts = []
    for _, of in seen.filter(seen["written_ns"] > 0).group_by("balancer"):
        parts.append(np.diff(np.unique(of["written_ns"].to_numpy())) / 1e6)
    return np.concatenate(parts) if parts else np.empty(0)


def sections(
    experiment: Experiment, name: str, form: Form, runs: Sequence[Kept], folder: Path
) -> list[Section]:
    """One, with a row a case and method that writes weights."""
    series: dict[str, NDArray[np.float64]] = {}
    for label, case in cases_of(experiment, form).items():
        for kept in runs:
            if kept.case == label and len(found := intervals_ms(kept)):
                key = f"{case.title}, {kept.method}"
                series[key] = np.concatenate([series.get(key, np.empty(0)), found])
    lines = []
    for key, found in series.items():
        cells = [
            float(found.mean()),
            *np.percentile(found, (1, 50, 99)).tolist(),
            float(found.max()),
        ]
        lines.append((key, str(len(found)), *(f"{cell:.1f}" for cell in cells)))
    columns = ("case", "steps", "mean", "p1", "median", "p99", "longest")
    table = Table("Intervals between steps", _NOTE, columns, tuple(lines))
    picture = plots.save(
        plots.cdf({k: v.tolist() for k, v in series.items()}, "ms between steps"),
        folder / f"{name}.png",
    )
    return [Section("Step interval", doubted(runs), [table], [picture])]
