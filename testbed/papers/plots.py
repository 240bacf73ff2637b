"""The pictures of Fig 2a and Fig 2b.

Lives here: drawing. Never here: runs, tables.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from testbed.papers.fig2a import WINDOW_S, Ratios
from testbed.papers.fig2b import CASES, Cost

WIDTH_IN, HEIGHT_IN = 7.0, 3.2


def ratios(found: list[Ratios], path: Path) -> None:
    """One violin an application; a line where the capacities alone would put the weight."""
    figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN))
    places = list(range(1, len(found) + 1))
    axes.violinplot([one.ratio for one in found], places, showmedians=True, showextrema=False)
    for place, one in zip(places, found, strict=True):
        label = "by capacity" if place == 1 else None
        axes.hlines(one.by_capacity, place - 0.3, place + 0.3, "k", "dashed", label=label)
    axes.set_xticks(places, [one.application for one in found])
    axes.set_ylabel(f"work given, 2 CPUs to 1\n(windows of {WINDOW_S:.0f} s)")
    axes.legend()
    _save(figure, path)


def costs(found: list[Cost], path: Path) -> None:
    """Bars by case and policy: the chain, and beside it what a balancer with its own view gets."""
    figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN))
    policies = list(dict.fromkeys(cost.policy for cost in found))
    width = 0.8 / (2 * len(policies))
    for number, policy in enumerate(policies):
        mine = {cost.case: cost for cost in found if cost.policy == policy}
        rows = [mine[case.name] for case in CASES]
        left = [place - 0.4 + 2 * number * width + width / 2 for place in range(len(CASES))]
        colour = f"C{number}"
        axes.bar(left, [row.chain for row in rows], width, color=colour, label=policy.upper())
        axes.bar(
            [place + width for place in left],
            [row.local.estimate for row in rows],
            width,
            yerr=[row.local.high - row.local.estimate for row in rows],
            color=colour,
            alpha=0.45,
        )
    axes.set_xticks(range(len(CASES)), [case.name for case in CASES])
    axes.set_ylabel("weighted duration\n(full: chain, pale: own view)")
    axes.legend()
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
