"""What choosing a backend costs: CIKM figure 11.

Lives here: the benchmark's figures beside the paper's. Never here: the measurement
(`testbed.bench.dispatch`). What a whole balancer spends on a request is in the comparisons: their
column CPU has HAProxy's and nginx's, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from testbed.bench import dispatch
from testbed.experiments.page import Section
from testbed.experiments.schema import Experiment, Form
from testbed.experiments.season import Ground, Progress, size_of
from testbed.experiments.store import Kept, Run, Store
from testbed.sim.league.summary import Table

_NOTE = (
    "Microseconds a choice, the flow's count up and another's down included; the fastest of "
    "several rounds, median beside it. The agent's weights change nothing here: they are read "
    "some times a second, and `sed` with them is the same argmin. The paper: 1.66 us a flow for "
    "the learned method, 3.6 % above SED and 8.6 % above LSQ."
)


def play(
    experiment: Experiment, name: str, form: Form, store: Store, ground: Ground
) -> Iterator[Progress]:
    """A run a repetition."""
    repetitions = size_of(experiment, form).repetitions
    for number in range(repetitions):
        run = Run("dispatch", "all", number, {"experiment": name})
        kept = store.has(run)
        fresh = kept is None
        if kept is None:
            kept = store.put(run, {"dispatch": pl.DataFrame(dispatch.run())}, {})
        yield Progress(kept, fresh, repetitions - number - 1)


def sections(
    experiment: Experiment, name: str, form: Form, runs: Sequence[Kept], folder: Path
) -> list[Section]:
    """A row a policy, columns by number of backends."""
    found = pl.concat([kept.table("dispatch") for kept in runs])
    best = found.group_by("policy", "backends", maintain_order=True).agg(
        pl.col("us").min(), pl.col("us_median").median()
    )
    sizes = sorted(best["backends"].unique().to_list())
    cells = {(r["policy"], r["backends"]): r for r in best.iter_rows(named=True)}
    sed = {size: cells["sed", size]["us"] for size in sizes}
    lines = [
        (
            policy,
            *(
                f"{cells[policy, n]['us']:.2f} ({cells[policy, n]['us_median']:.2f}), "
                f"{cells[policy, n]['us'] / sed[n]:.2f}"
                for n in sizes
            ),
        )
        for policy in dict.fromkeys(found["policy"].to_list())
    ]
    columns = ("policy", *(f"{n} backends: us (median), to SED" for n in sizes))
    return [Section("Decision", "", [Table("Choosing a backend", _NOTE, columns, tuple(lines))])]
