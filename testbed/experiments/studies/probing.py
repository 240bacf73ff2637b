"""What active probing knows of the servers, by how often it asks: MPG table 1 and figure 9.

Lives here: the last answer against the truth at every look. Never here: asking (`probing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from testbed.experiments import plots
from testbed.experiments.report import Section
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import play_all, size_of
from testbed.experiments.store import Kept
from testbed.sim.league.summary import Table

play = play_all

PAPER = {
    2.22: (48.33, 2.07, 0.28, 0.47, 2.15),
    2.86: (44.56, 1.85, 0.40, 0.56, 2.76),
    4.0: (39.84, 1.61, 0.52, 0.66, 3.86),
    6.67: (32.65, 1.31, 0.68, 0.77, 6.44),
    20.0: (21.97, 0.91, 0.85, 0.89, 9.32),
}
"""MPG table 1 by probes a second: RMSE of CPU in percent and of jobs, Spearman's correlation of
both, kbit/s with two balancers and seven servers."""


def sections(
    experiment: Experiment, name: str, form: Form, runs: Sequence[Kept], folder: Path
) -> list[Section]:
    """One table, a row a frequency, and its plot."""
    settle_s = size_of(experiment, form).settle_s
    errors = pl.concat([errors_of(kept, settle_s) for kept in runs])
    lines, x, rmse, rho = [], [], [], []
    for (hz,), of in errors.sort("hz").group_by(["hz"], maintain_order=True):
        jobs = quality(of["busy_truth"], of["busy"])
        cpu = quality(of["used_truth"] * 100, of["used"] * 100)
        kbit = _kbit_per_s(runs, float(hz))
        took = pl.concat([kept.table("probes") for kept in runs]).filter(pl.col("hz") == hz)
        paper = PAPER.get(round(float(hz), 2), (math.nan,) * 5)
        cells = (
            cpu[0],
            paper[0],
            jobs[0],
            paper[1],
            cpu[1],
            paper[2],
            jobs[1],
            paper[3],
            kbit,
            paper[4],
        )
        lines.append(
            (
                f"{hz:g}",
                *("-" if math.isnan(cell) else f"{cell:.2f}" for cell in cells),
                f"{float(took['took_s'].median() or 0) * 1e6:.0f}",
            )
        )
        x.append(float(hz))
        rmse.append(jobs[0])
        rho.append(jobs[1])
    table = Table(
        "Probing frequency",
        "The last answer against the truth, at every look at the truth. RMSE of CPU in percent of "
        "the server's own share, of jobs in busy workers; Spearman's correlation; kbit/s of all "
        "servers and balancers, without TCP and IP headers. Beside each the paper's (table 1).",
        (
            "probes a second", "RMSE CPU", "paper", "RMSE jobs", "paper", "Spearman CPU", "paper",
            "Spearman jobs", "paper", "kbit/s", "paper", "a probe takes, us (median)",
        ),
        tuple(lines),
    )  # fmt: skip
    series = {"RMSE of jobs": rmse, "Spearman of jobs": rho}
    theirs = [PAPER[round(hz, 2)][1] if round(hz, 2) in PAPER else math.nan for hz in x]
    series["RMSE of jobs, paper"] = theirs
    picture = plots.save(plots.against(x, series, ("probes a second", "")), folder / f"{name}.png")
    return [Section("What probing knows", "", [table], [picture])]


def errors_of(kept: Kept, settle_s: float) -> pl.DataFrame:
    """A row a look and frequency: busy and share of CPU, as they were and as last told."""
    cores = pl.DataFrame(
        [
            {"server": f"{g['name']}{n + 1}", "cores": float(g["cores"])}
            for g in kept.record["content"]["topology"]["groups"]
            for n in range(g["count"])
        ]
    )
    truth = _shares(kept.truth().join(cores, on="server"), ["server"])
    probes = _shares(kept.table("probes").join(cores, on="server"), ["hz", "server"])
    probes = probes.drop("cores").sort("at_s")
    parts = []
    for (hz,), of in probes.group_by(["hz"], maintain_order=True):
        joined = truth.sort("at_s").join_asof(
            of.drop("hz"), on="at_s", by="server", suffix="_probed", check_sortedness=False
        )
        parts.append(joined.with_columns(hz=pl.lit(float(str(hz)))))
    table = pl.concat(parts).drop_nulls().filter(pl.col("at_s") >= settle_s)
    return table.select(
        "hz",
        "server",
        busy_truth=pl.col("busy"),
        busy=pl.col("busy_probed"),
        used_truth=pl.col("used"),
        used=pl.col("used_probed"),
    )


def _shares(looks: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """With `used`: the CPU since the look before over what the server had."""
    spent = pl.col("cpu_s").diff().over(by) / pl.col("at_s").diff().over(by) / pl.col("cores")
    return looks.sort("at_s").with_columns(used=spent)


def quality(truth: pl.Series, told: pl.Series) -> tuple[float, float]:
    """(root of the mean squared error, Spearman's rank correlation); NaN where nothing varies."""
    error = float(np.sqrt(np.mean((truth.to_numpy() - told.to_numpy()) ** 2)))
    ranks = np.vstack([truth.rank().to_numpy(), told.rank().to_numpy()])
    if np.any(ranks.std(axis=1) == 0):
        return error, math.nan
    return error, float(np.corrcoef(ranks)[0, 1])


def _kbit_per_s(runs: Sequence[Kept], hz: float) -> float:
    rates = []
    for kept in runs:
        of = kept.table("probes").filter(pl.col("hz") == hz)
        span_s = float(of["at_s"].max()) - float(of["at_s"].min())  # type: ignore[arg-type]
        balancers = kept.record["content"]["topology"]["balancers"]["count"]
        rates.append(int(of["wire_bytes"].sum()) * 8 * balancers / span_s / 1e3)
    return sum(rates) / len(rates)
