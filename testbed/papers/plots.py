"""The pictures of Fig 2a and Fig 2b, and of how the papers' agents learn.

Lives here: drawing. Never here: runs, tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from testbed.papers.fig2a import WINDOW_S, Ratios
from testbed.papers.fig2b import CASES, Cost

if TYPE_CHECKING:
    # At run time it would bring torch along.
    from testbed.papers.learned import Row

WIDTH_IN, HEIGHT_IN = 7.0, 3.2
SMOOTH_EPISODES = 25
BESIDE = ("oracle", "lsq", "agent")
"""Policies that do not learn here, as lines to compare with."""


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


def learning(found: Sequence[Row], path: Path) -> None:
    """Mean completion time by training episode, a panel an application, and others' as lines."""
    applications = list(dict.fromkeys(row.application for row in found))
    figure, panels = plt.subplots(
        1, len(applications), figsize=(1.4 * WIDTH_IN, 1.1 * HEIGHT_IN), squeeze=False
    )
    for axes, application in zip(panels[0], applications, strict=True):
        rows = [row for row in found if row.application == application]
        for row, style in zip(
            [row for row in rows if row.policy in BESIDE], ("-", "--", ":"), strict=True
        ):
            axes.axhline(row.mean_s, color="k", linestyle=style, linewidth=1, label=row.policy)
        for row in rows:
            window = min(SMOOTH_EPISODES, row.episodes)
            if window:
                mean_s = np.convolve(row.curve_s, np.full(window, 1 / window), "valid")
                axes.plot(np.arange(window, row.episodes + 1), mean_s, label=row.policy)
        axes.set_title(application, fontsize="medium")
        axes.set_xlabel("episode")
    panels[0, 0].set_ylabel(f"mean completion time, s\n(mean of {SMOOTH_EPISODES} episodes)")
    handles, labels = panels[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
