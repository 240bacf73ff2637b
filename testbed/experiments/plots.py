"""An experiment's plots: distributions, ratios, busy workers, what happened over time.

Lives here: drawing. Never here: statistics, pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from testbed.experiments.figures import Row, busy_by_group, waited_s
from testbed.experiments.store import Kept

_BINS_S = 1.0


def save(figure: Figure, path: Path) -> Path:
    """As PNG; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def latency(runs: Sequence[Kept], settle_s: float, timeout_s: float) -> Figure:
    """Share of requests that take longer, by method; failures as long as a client waits."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for number, (method, latency_s) in enumerate(_latencies(runs, settle_s, timeout_s).items()):
        ordered_ms = np.sort(latency_s) * 1e3
        longer = 1.0 - np.linspace(0, 1, len(ordered_ms), endpoint=False)
        style = "-" if number < 10 else "--"
        axes.plot(ordered_ms, longer, style, label=method, linewidth=1.2)
    axes.set(xscale="log", yscale="log", ylim=(1e-3, 1), xlabel="latency, ms")
    axes.set_ylabel("share of requests that take longer")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def _latencies(runs: Iterable[Kept], settle_s: float, timeout_s: float) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    for kept in runs:
        of = kept.requests().filter(pl.col("planned_s") >= settle_s)
        found.setdefault(kept.method, []).append(waited_s(of, timeout_s))
    return {method: np.concatenate(parts) for method, parts in found.items() if parts}


def busy(runs: Sequence[Kept], settle_s: float, until_s: float) -> Figure:
    """Busy workers by group of servers, a box a method: how evenly work is spread."""
    by_method: dict[str, dict[str, list[int]]] = {}
    for kept in runs:
        for group, looks in busy_by_group(kept, settle_s, until_s).items():
            by_method.setdefault(kept.method, {}).setdefault(group, []).extend(looks)
    groups = list(dict.fromkeys(g for found in by_method.values() for g in found))
    figure, axes = plt.subplots(figsize=(7, 4.2))
    width = 0.8 / max(1, len(groups))
    for number, group in enumerate(groups):
        at = np.arange(len(by_method)) + number * width
        shown = [found.get(group, [0]) for found in by_method.values()]
        boxes = axes.boxplot(
            shown, positions=at, widths=width * 0.9, whis=(5, 95), showfliers=False,
            patch_artist=True, medianprops={"color": "black"},
        )  # fmt: skip
        for box in boxes["boxes"]:
            box.set_facecolor(f"C{number}")
        axes.plot([], [], "s", color=f"C{number}", label=group)
    axes.set_xticks(
        np.arange(len(by_method)) + width * (len(groups) - 1) / 2,
        list(by_method),
        rotation=30,
        ha="right",
        fontsize=8,
    )
    axes.set_ylabel("busy workers of a server; whiskers 5 and 95 %")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(title="servers")
    return figure


def over_time(runs: Sequence[Kept], marks_s: Sequence[float], timeout_s: float) -> Figure:
    """Mean latency of the requests planned in each second, over repetitions; marks: events.

    Failures count as long as a client waits.
    """
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for method in dict.fromkeys(kept.method for kept in runs):
        tables = [kept.requests() for kept in runs if kept.method == method]
        every = pl.concat(tables)
        waited = every.with_columns(latency_s=pl.Series(waited_s(every, timeout_s)))
        bins = (
            waited.group_by((pl.col("planned_s") / _BINS_S).floor().alias("bin"))
            .agg(pl.col("latency_s").mean())
            .sort("bin")
        )
        axes.plot(bins["bin"] * _BINS_S, bins["latency_s"] * 1e3, label=method, linewidth=1.2)
    for at_s in marks_s:
        axes.axvline(at_s, color="black", linewidth=0.8, linestyle=":")
    axes.set(yscale="log", xlabel="s", ylabel="mean latency of a second, ms")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def ratios(
    rows: Sequence[Row], order: Sequence[str], figure_name: str, titles: Mapping[str, str]
) -> Figure:
    """Ratio to SED over cases, a line a method."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for number, method in enumerate(dict.fromkeys(row.method for row in rows)):
        of = {row.case: row.ratio[figure_name] for row in rows if row.method == method}
        at = [index for index, case in enumerate(order) if of.get(case) is not None]
        found = [interval for case in order if (interval := of.get(case)) is not None]
        style = "-o" if number < 10 else "--s"
        axes.plot(at, [i.estimate for i in found], style, label=method, markersize=3, linewidth=1)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(
        range(len(order)), [titles[case] for case in order], rotation=20, ha="right", fontsize=8
    )
    axes.set(yscale="log", ylabel=f"{figure_name}, ratio to SED")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return figure


def cdf(series: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Distribution functions of a few series."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name, values in series.items():
        ordered = np.sort(np.asarray(values))
        axes.plot(ordered, np.linspace(0, 1, len(ordered)), label=name, linewidth=1.2)
    axes.set(xlabel=label, ylabel="share")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def against(
    x: Sequence[float], series: Mapping[str, Sequence[float]], labels: tuple[str, str]
) -> Figure:
    """Lines over x, logarithmic in x."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name, values in series.items():
        axes.plot(x, values, "-o", label=name, markersize=4, linewidth=1.2)
    axes.set(xscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
