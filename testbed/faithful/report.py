"""The comparison on the screen and in files.

Lives here: tables, picture, JSON, and the part of a page that they replace. Never here: measuring
or statistics.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Final

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from testbed.faithful.compare import Pair
from testbed.faithful.figures import Row, Twofold, rows
from testbed.faithful.setting import Setting

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"
PICTURE: Final = "faithful.png"


class PageError(ValueError):
    """The page has no place for the tables; the message names it."""


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
        # One round has no interval.
        f"{ratio.estimate:.3f}"
        + (f" ({ratio.low:.3f} to {ratio.high:.3f})" if isfinite(ratio.low) else ""),
        f"{figure.median:.3f}",
        f"±{figure.spread:.3f}",
    )


def markdown(setting: Setting, found: Sequence[Row]) -> str:
    """What was measured, as a page shows it: how much, the figures, what the machine did."""
    requests = sorted({row.requests for row in found})
    rounds = sorted({row.rounds for row in found})
    failed = sum(row.failed for row in found)
    far = [f"`{row.method}`" for row in found if not row.close]
    lines = [
        f"Rounds of {setting.run_s:g} s, {_range(rounds, 'd')} a policy, "
        f"{_range(requests, ',')} requests, {failed or 'none'} failed. Ratio: live over simulated, "
        "with a 95 % bootstrap interval over the rounds; ties: the standard deviation that the "
        "ratio would have between two simulations.",
        "",
        "| policy | mean live, ms | simulated | ratio (95 %) | ties "
        "| p99 live, ms | simulated | ratio (95 %) | ties |",
        "|" + "---|" * 9,
    ]
    for row in found:
        figures = (_cells(twofold) for twofold in (row.mean, row.p99))
        shown = [
            cell
            for live, simulated, ratio, _, ties in figures
            for cell in (live, simulated, ratio, ties)
        ]
        lines.append(f"| `{row.method}` | " + " | ".join(shown) + " |")
    lines += [
        "",
        f"Means that differ by more than 10 %: {', '.join(far) or 'none'}.",
        "",
        "| live runs | overhead inside, ms | outside | lag p99, ms | cores busy | failed |",
        "|" + "---|" * 6,
    ]
    for row in found:
        inside, outside = row.overhead.inside_s * 1e3, row.overhead.outside_s * 1e3
        lines.append(
            f"| `{row.method}` | {inside:.1f} | {outside:.1f} | {row.lag_p99_s * 1e3:.1f} "
            f"| {row.busy:.0%} | {row.failed} |"
        )
    return "\n".join(lines) + "\n"


def _range(values: Sequence[int], form: str) -> str:
    low, high = format(values[0], form), format(values[-1], form)
    return low if low == high else f"{low} to {high}"


def check(page: Path) -> None:
    """Raises PageError, or OSError, if `put` would not find its place in `page`."""
    text = page.read_text()
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise PageError(f"{page}: needs the lines {BEGIN} and {END}, in this order")


def put(folder: Path, page: Path) -> None:
    """The report in `folder` between the page's marks, its picture into `img` beside the page."""
    check(page)
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    measured = (folder / "results.md").read_text()
    page.write_text(f"{before}{BEGIN}\n\n{measured}\n{END}{after}")
    (page.parent / "img").mkdir(exist_ok=True)
    shutil.copyfile(folder / PICTURE, page.parent / "img" / PICTURE)


def write(setting: Setting, pairs: Sequence[Pair], folder: Path) -> None:
    """`results.md`, `results.json` and `faithful.png` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = rows(pairs)
    (folder / "results.md").write_text(markdown(setting, found))
    document = {
        "setting": asdict(setting),
        "rate_per_s": setting.rate_per_s,
        "rows": [asdict(row) for row in found],
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
    _plot(pairs, folder / PICTURE)


def _plot(pairs: Sequence[Pair], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 6))
    share = np.geomspace(1.0, 1e-3, 400)
    colour = plt.get_cmap("tab20")
    for number, method in enumerate(dict.fromkeys(pair.method for pair in pairs)):
        of_method = [pair for pair in pairs if pair.method == method]
        for latencies, style, label in (
            ([pair.live_s for pair in of_method], "-", method),
            ([pair.simulated_s.ravel() for pair in of_method], "--", None),
        ):
            latency_ms = np.quantile(np.concatenate(latencies), 1.0 - share) * 1e3
            axes.plot(latency_ms, share, style, color=colour(number), label=label, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel="latency, ms")
    axes.set(ylabel="share of requests that take longer", ylim=(1e-3, 1), xlim=(1, None))
    axes.grid(alpha=0.3)
    axes.legend(title="live; dashed: simulated", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
