"""The comparison on the screen and in files.

Lives here: table, picture, JSON. Never here: measuring or statistics.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from testbed.faithful.compare import Pair
from testbed.faithful.figures import Row, Twofold, rows
from testbed.faithful.setting import Setting


def tables(found: Sequence[Row]) -> Iterator[Table]:
    """The mean, the 99th percentile, and what became of the live runs; one row a method."""
    for title, figure in (("mean", lambda row: row.mean), ("p99", lambda row: row.p99)):
        shown = _table(
            f"{title} latency, ms", "live", "simulated", "ratio (95 %)", "median", "ties"
        )
        for row in found:
            shown.add_row(row.method, *_cells(figure(row)))
        yield shown
    columns = ("requests", "failed", "overhead, ms", "lag p99, ms", "cores busy", "within 10 %")
    shown = _table("live runs", *columns)
    for row in found:
        shown.add_row(
            row.method,
            str(row.requests),
            str(row.failed),
            f"{row.overhead.inside_s * 1e3:.1f} + {row.overhead.outside_s * 1e3:.1f}",
            f"{row.lag_p99_s * 1e3:.1f}",
            f"{row.busy:.0%}",
            "yes" if row.close else "no",
        )
    yield shown


def _table(title: str, *columns: str) -> Table:
    shown = Table(title=title)
    shown.add_column("method")
    for column in columns:
        shown.add_column(column, justify="right")
    return shown


def _cells(figure: Twofold) -> tuple[str, ...]:
    ratio = figure.ratio
    return (
        f"{figure.live_s * 1e3:.1f}",
        f"{figure.simulated_s * 1e3:.1f}",
        f"{ratio.estimate:.3f} ({ratio.low:.3f} to {ratio.high:.3f})",
        f"{figure.median:.3f}",
        f"±{figure.spread:.3f}",
    )


def write(setting: Setting, pairs: Sequence[Pair], folder: Path) -> None:
    """`results.json` and `faithful.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "setting": asdict(setting),
        "rate_per_s": setting.rate_per_s,
        "rows": [asdict(row) for row in rows(pairs)],
        "runs": [
            {
                "method": pair.method,
                "round": pair.round_number,
                "live_mean_s": float(pair.live_s.mean()),
                "simulated_mean_s": float(pair.simulated_s.mean()),
                "overhead": asdict(pair.overhead),
                "busy": pair.busy,
                "lag_p99_s": pair.lag_p99_s,
            }
            for pair in pairs
        ],
    }
    (folder / "results.json").write_text(json.dumps(document, indent=1))
    _plot(pairs, folder / "faithful.png")


def _plot(pairs: Sequence[Pair], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for number, method in enumerate(dict.fromkeys(pair.method for pair in pairs)):
        of_method = [pair for pair in pairs if pair.method == method]
        for latencies, style, label in (
            ([pair.live_s for pair in of_method], "-", method),
            ([pair.simulated_s.ravel() for pair in of_method], "--", None),
        ):
            latency_ms = np.sort(np.concatenate(latencies)) * 1e3
            share = 1.0 - np.linspace(0, 1, len(latency_ms), endpoint=False)
            axes.plot(latency_ms, share, style, color=f"C{number}", label=label, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel="latency, ms")
    axes.set(ylabel="share of requests that take longer", ylim=(1e-3, 1), xlim=(1, None))
    axes.grid(alpha=0.3)
    axes.legend(title="live; dashed: simulated", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
