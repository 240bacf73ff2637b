"""The demo's report folder: a page, three plots, the figures as JSON.

Lives here: files. Never here: measuring or statistics.
"""

from __future__ import annotations

import html
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from testbed.demo.compare import CHANGED, CONFIGURED, Comparison
from testbed.demo.figures import Row, table, weights
from testbed.demo.scenario import METHODS, TITLES
from testbed.stats import Interval

Parts = dict[str, list[Row]]


def write(comparison: Comparison, folder: Path) -> Path:
    """Write everything; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {part: table(comparison, part) for part in (CONFIGURED, CHANGED)}
    _save(_cdf(comparison), folder / "latency.png")
    _save(_weights(comparison), folder / "weights.png")
    _save(_share(comparison), folder / "share.png")
    (folder / "results.json").write_text(json.dumps(_figures(comparison, rows), indent=1))
    page = folder / "index.html"
    page.write_text(_page(comparison, rows))
    return page


def _figures(comparison: Comparison, rows: Parts) -> dict[str, Any]:
    return {
        "lbd": version("lbd"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "scenario": asdict(comparison.scenario),
        "rate_per_s": comparison.scenario.rate_per_s,
        "changed_s": comparison.changed_s,
        "weights": {part: asdict(found) for part, found in weights(comparison).items()},
        "methods": {part: [asdict(row) for row in found] for part, found in rows.items()},
    }


def _cdf(comparison: Comparison) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for method in METHODS:
        runs = comparison.of(method.name)
        if runs:
            latency_ms = np.sort(np.concatenate([run.result.latency_s() for run in runs])) * 1e3
            axes.plot(latency_ms, np.linspace(0, 1, len(latency_ms)), label=TITLES[method.name])
    axes.set(xscale="log", xlabel="latency from the planned time, ms", ylabel="share of requests")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _weights(comparison: Comparison) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4.5))
    speeds = comparison.scenario.speeds
    if comparison.weights:
        at_s = np.array([at for at, _ in comparison.weights])
        weights = np.array([weight for _, weight in comparison.weights])  # (looks, N)
        # While other methods have their turn there is nothing to show.
        pauses = np.flatnonzero(np.diff(at_s) > 2.0) + 1
        at_s = np.insert(at_s, pauses, np.nan)
        weights = np.insert(weights, pauses, np.nan, axis=0)
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(speeds)))
        for row, (name, speed) in enumerate(speeds.items()):
            label = f"{name} (speed {speed:g})"
            axes.plot(at_s, weights[:, row], label=label, color=shades[row], linewidth=1)
    if comparison.changed_s is not None:
        axes.axvline(comparison.changed_s, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        yscale="log",
        xlabel="s; dotted: the speeds change; only under load",
    )
    axes.set_ylabel("weight, mean 1")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _share(comparison: Comparison) -> Figure:
    figure, axes = plt.subplots(figsize=(7, 4.5))
    speeds = np.array(list(comparison.scenario.speeds.values()))
    capacity = speeds / speeds.sum()
    at = np.arange(len(speeds))
    methods = [method for method in METHODS if comparison.of(method.name)]
    width = 0.8 / max(1, len(methods))
    for index, method in enumerate(methods):
        share = np.mean([run.share for run in comparison.of(method.name)], axis=0)
        axes.bar(at + index * width, share, width, label=TITLES[method.name])
    for row, wanted in enumerate(capacity):
        axes.plot([row - width, row + 0.8], [wanted, wanted], color="black", linewidth=1.5)
    axes.set_xticks(
        at + 0.3, [f"{name}\nspeed {s:g}" for name, s in comparison.scenario.speeds.items()]
    )
    axes.set_ylabel("share of requests; black: share of the capacity")
    axes.legend(fontsize=8)
    return figure


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>lbd demo</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #8882 }
img { max-width: 100% }
</style>
<h1>lbd demo</h1>
<p>$about</p>
$tables
<h2>Latency</h2><img src="latency.png" alt="distribution of latency by method">
<h2>The agent's weights</h2><img src="weights.png" alt="weights over time">
<h2>Share of requests against share of capacity</h2><img src="share.png" alt="shares by backend">
</html>
""")


def _page(comparison: Comparison, rows: Parts) -> str:
    scenario = comparison.scenario
    speeds = ", ".join(f"{speed:g}" for speed in scenario.speeds.values())
    agent = (
        "began with the policy that comes with it and went on learning"
        if scenario.learn
        else "had the policy that comes with it and no configuration"
    )
    about = (
        f"{len(scenario.speeds)} backends with speeds {speeds}; {scenario.rate_per_s:.0f} requests "
        f"a second, {scenario.utilisation:.0%} of the capacity; Poisson arrivals, exponential "
        f"work; {scenario.repetitions} repetitions of {scenario.run_s:g} s, the same arrivals for "
        f"every method within one. The agent {agent}. In the second part the speeds had changed to "
        f"{', '.join(f'{speed:g}' for speed in scenario.changed.values())}, and nobody had told "
        f"any method."
    )
    tables = "".join(
        f"<h2>{html.escape(part)}</h2><table>{_HEAD}{''.join(map(_row, found))}</table>"
        for part, found in rows.items()
    )
    return _PAGE.substitute(about=html.escape(about), tables=tables)


_HEAD = (
    "<tr><th>method</th><th>mean ms (95 %)</th><th>p50</th><th>p90</th><th>p99 (95 %)</th>"
    "<th>mean to SED, first weights</th><th>failed</th><th>runs with a punctual generator</th></tr>"
)


def _row(row: Row) -> str:
    cells = (
        TITLES[row.method],
        _interval_ms(row.mean),
        f"{row.p50.estimate * 1e3:.1f}",
        f"{row.p90.estimate * 1e3:.1f}",
        _interval_ms(row.p99),
        f"{row.ratio:.2f}",
        f"{sum(row.failures.values())} of {row.requests}",
        f"{row.believable} of {row.repetitions}",
    )
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _interval_ms(interval: Interval) -> str:
    low, high = interval.low * 1e3, interval.high * 1e3
    return f"{interval.estimate * 1e3:.1f} ({low:.1f} to {high:.1f})"
