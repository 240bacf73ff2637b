"""The league's plots: every ratio as a map, the geometric means with their intervals.

Lives here: drawing. Never here: statistics.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from testbed.sim.league.standings import FIGURES, Standings
from testbed.sim.league.summary import short
from testbed.sim.policies import REFERENCE

_DARK = 2.5
"""Ratios from here on are written in white."""


def draw(standings: Standings, folder: Path) -> list[Path]:
    """Every plot as PNG; returns the paths."""
    drawn = {f"map_{figure.removesuffix('_s')}": _map(standings, figure) for figure in FIGURES}
    drawn["overall"] = _overall(standings)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110, bbox_inches="tight")
        plt.close(figure)
    return paths


def _map(standings: Standings, figure: str) -> Figure:
    policies = standings.policies
    of = [r for r in standings.to_reference if r.figure == figure]
    scenarios = list(dict.fromkeys(r.scenario for r in of))
    found = {(r.scenario, r.policy): r.interval.estimate for r in of}
    values = np.array([[found[s, p] for p in policies] for s in scenarios])
    drawing, axes = plt.subplots(figsize=(1.5 + 0.62 * len(policies), 1.5 + 0.33 * len(scenarios)))
    axes.imshow(values, cmap="RdYlGn_r", norm=LogNorm(0.8, 3.0), aspect="auto")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        colour = "white" if value > _DARK else "black"
        axes.text(column, row, short(value), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(policies)), policies, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(scenarios)), scenarios, fontsize=8)
    axes.set_title(f"{figure.removesuffix('_s')}, ratio to {REFERENCE}", fontsize=10)
    return drawing


def _overall(standings: Standings) -> Figure:
    policies = standings.policies[::-1]
    drawing, axes = plt.subplots(figsize=(7, 1 + 0.32 * len(policies)))
    for offset, figure in zip((0.12, -0.12), FIGURES, strict=True):
        of = {entry.policy: entry.interval for entry in standings.overall if entry.figure == figure}
        at = np.array([of[policy].estimate for policy in policies])
        # A single seed has no interval.
        low = np.maximum([of[policy].low for policy in policies], 0.0)
        high = np.array([of[policy].high for policy in policies])
        bounded = np.isfinite(high)
        errors = np.where(bounded, [at - low, high - at], 0.0)
        rows = np.arange(len(policies)) + offset
        label = figure.removesuffix("_s")
        axes.errorbar(at, rows, xerr=np.maximum(errors, 0.0), fmt="o", markersize=4, label=label)
    axes.set_yticks(range(len(policies)), policies, fontsize=8)
    axes.set(xscale="log", xlabel=f"geometric mean of the ratios to {REFERENCE}")
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.grid(alpha=0.3)
    axes.legend()
    return drawing
