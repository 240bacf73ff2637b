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
from testbed.experiments.page import Section
from testbed.experiments.report import doubted
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import play_all, size_of
from testbed.experiments.store import Kept
from testbed.sim.league.summary import Table

play = play_all

WINDOW_S = 0.5
"""Over which CPU is taken, of truth and of answers alike: within a quota's period it is all or
nothing."""

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
        took = pl.concat(
            kept.table("probes").with_columns(run=pl.lit(index)) for index, kept in enumerate(runs)
        ).filter(pl.col("hz") == hz)
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
        achieved = achieved_hz(took)
        lines.append(
            (
                f"{hz:g}",
                f"{achieved:.2f}",
                *_cells(cells),
                f"{float(took['took_s'].median() or 0) * 1e6:.0f}",
                *_cells((_asking(runs, float(hz)) * 100,)),
            )
        )
        x.append(achieved)
        rmse.append(jobs[0])
        rho.append(jobs[1])
    table = Table(
        "Probing frequency",
        "The last answer against the truth, at every look at the truth. RMSE of CPU in percent of "
        "the server's own share, of jobs in busy workers; Spearman's correlation; kbit/s of all "
        "servers and balancers, without TCP and IP headers: questions in HTTP and answers in JSON, "
        "where the paper has packets of 69 bytes. CPU is that of the last half second, on either "
        "side. Asking: of the servers' CPU, what answering takes. Beside each the paper's (table "
        "1), for the frequency that was wanted.",
        (
            "probes a second", "achieved", "RMSE CPU", "paper", "RMSE jobs", "paper",
            "Spearman CPU", "paper", "Spearman jobs", "paper", "kbit/s", "paper",
            "a probe takes, us (median)", "asking, %",
        ),
        tuple(lines),
    )  # fmt: skip
    series = {"RMSE of jobs": rmse, "Spearman of jobs": rho}
    picture = plots.save(
        plots.against(x, series, ("probes a second that were answered", "")), folder / f"{name}.png"
    )
    return [Section("What probing knows", doubted(runs), [table], [picture])]


def _cells(values: Sequence[float]) -> list[str]:
    return ["-" if math.isnan(value) else f"{value:.2f}" for value in values]


def achieved_hz(probes: pl.DataFrame) -> float:
    """Answers a second and server, of one frequency over all its runs."""
    counts = probes.group_by("run", "server").agg(
        answers=pl.len() - 1, span_s=pl.col("at_s").max() - pl.col("at_s").min()
    )
    return float(counts["answers"].sum()) / float(counts["span_s"].sum())


def _asking(runs: Sequence[Kept], hz: float) -> float:
    """CPU time of answering over what the servers had; NaN where servers do not tell.

    Frequencies of one run share it.
    """
    shares = []
    for kept in runs:
        probes = kept.table("probes")
        if probes.filter(pl.col("hz") == hz).is_empty():
            continue
        spent = probes.group_by("server").agg(
            spent_s=pl.col("asking_s").max() - pl.col("asking_s").min(),
            span_s=pl.col("at_s").max() - pl.col("at_s").min(),
        )
        had_s = (
            spent.join(_cores(kept), on="server").select(pl.col("span_s") * pl.col("cores")).sum()
        )
        shares.append(float(spent["spent_s"].sum()) / float(had_s.item()))
    return sum(shares) / len(shares)


def errors_of(kept: Kept, settle_s: float) -> pl.DataFrame:
    """A row a look and frequency: busy and share of CPU, as they were and as last told."""
    truth = _shares(kept.truth(), "at_s")
    asked = kept.table("probes").join(_cores(kept), on="server")
    told = [_shares(of, "taken_s") for _, of in asked.group_by(["hz"], maintain_order=True)]
    # What is known at a moment is what had arrived by then.
    probes = pl.concat(told).drop("cores").sort("at_s")
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


def _cores(kept: Kept) -> pl.DataFrame:
    """What each server had at first."""
    groups = kept.record["content"]["topology"]["groups"]
    rows = [
        {"server": f"{g['name']}{n + 1}", "cores": float(g["cores"])}
        for g in groups
        for n in range(g["count"])
    ]
    return pl.DataFrame(rows)


def _shares(looks: pl.DataFrame, clock: str) -> pl.DataFrame:
    """With `used`: the CPU since the last look that is WINDOW_S old, or since the one before where
    that is older, over what the server had. clock: the column of the server's own time."""
    parts = []
    for _, of in looks.group_by(["server"], maintain_order=True):
        ordered = of.sort(clock)
        at_s, cpu_s = ordered[clock].to_numpy(), ordered["cpu_s"].to_numpy()
        since = np.searchsorted(at_s, at_s - WINDOW_S, side="right") - 1
        since = np.where(since < 0, -1, np.minimum(since, np.arange(len(at_s)) - 1))
        span_s = at_s - at_s[since]
        known = (since >= 0) & (span_s > 0)
        used = np.full(len(at_s), np.nan)
        used[known] = (cpu_s - cpu_s[since])[known] / span_s[known]
        parts.append(ordered.with_columns(used=pl.Series(used, nan_to_null=True) / pl.col("cores")))
    return pl.concat(parts)


def quality(truth: pl.Series, told: pl.Series) -> tuple[float, float]:
    """(root of the mean squared error, Spearman's rank correlation); NaN where nothing varies."""
    error = float(np.sqrt(np.mean((truth.to_numpy() - told.to_numpy()) ** 2)))
    ranks = np.vstack([truth.rank().to_numpy(), told.rank().to_numpy()])
    if np.any(ranks.std(axis=1) == 0):
        return error, math.nan
    return error, float(np.corrcoef(ranks)[0, 1])


def _kbit_per_s(runs: Sequence[Kept], hz: float) -> float:
    """Mean of the runs in which servers were asked that often."""
    rates = []
    for kept in runs:
        of = kept.table("probes").filter(pl.col("hz") == hz)
        if of.is_empty():
            continue
        span_s = float(of["at_s"].max()) - float(of["at_s"].min())  # type: ignore[arg-type]
        balancers = kept.record["content"]["topology"]["balancers"]["count"]
        rates.append(int(of["wire_bytes"].sum()) * 8 * balancers / span_s / 1e3)
    return sum(rates) / len(rates)
