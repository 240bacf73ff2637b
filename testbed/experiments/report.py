"""What is shown of methods that were compared, case by case, and in which words.

Lives here: tables, pictures and verdicts. Never here: numbers (`figures`, `beside`), drawing
(`plots`), the page that they are written on (`page`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from testbed.experiments import plots
from testbed.experiments.beside import LEARNED, Column, columns
from testbed.experiments.demand import shape
from testbed.experiments.figures import (
    ALL,
    FIGURES,
    Row,
    Window,
    busy_by_group,
    rows,
    used_by_server,
)
from testbed.experiments.methods import learned
from testbed.experiments.page import ALL_CASES, Section
from testbed.experiments.schema import Case, Day, Experiment, Form, Size
from testbed.experiments.season import cases_of, methods_of, size_of
from testbed.experiments.store import Kept
from testbed.experiments.verdict import FIGURES as FIGURES_JUDGED
from testbed.experiments.verdict import in_words
from testbed.sim.league.summary import Table
from testbed.stats import Interval

NOTHING = "-"
DOUBTED = " \\*"


def windows_of(case: Case, run_s: float, settle_s: float) -> list[Window]:
    """The whole settled run first; then its parts, where the case has any."""
    edges = [at for at in case.windows_s if settle_s < at < run_s]
    whole = [(settle_s, run_s)]
    if not edges:
        return whole
    return whole + list(zip([settle_s, *edges], [*edges, run_s], strict=True))


def compared(
    experiment: Experiment, name: str, form: Form, runs: Sequence[Kept], folder: Path
) -> list[Section]:
    """A section a case; and one over all cases where there are several."""
    size, cases = size_of(experiment, form), cases_of(experiment, form)
    order = [*methods_of(experiment, form), *(kept.method for kept in runs)]
    given = [kept for kept in runs if kept.case in cases]
    runs = sorted(
        alike(given),
        key=lambda kept: (list(cases).index(kept.case), order.index(kept.method), kept.repetition),
    )
    windows = {label: windows_of(case, size.run_s, size.settle_s) for label, case in cases.items()}
    found = rows(runs, windows, experiment.timeout_s)
    _table(found).write_parquet(folder / f"{name}-figures.parquet")
    sections = []
    if len({row.case for row in found}) > 1:
        sections.append(_overview(name, cases, found, windows, folder))
    for label, case in cases.items():
        mine = [row for row in found if row.case == label]
        if mine:
            of_case = [kept for kept in runs if kept.case == label]
            part = _case(name, label, case, mine, of_case, size, experiment.timeout_s, folder)
            if sections and not case.events and not case.windows_s:
                # The milliseconds are in the section before.
                part = replace(
                    part, tables=part.tables[1:], details=[part.tables[0], *part.details]
                )
            sections.append(part)
    left_out = len(given) - len(runs)
    if left_out:
        sections.append(
            Section(
                "Left out",
                f"{left_out} runs that are there were of other traffic, rates or lengths than the "
                "newest of their case.",
                [],
            )
        )
    return sections


def _overview(
    name: str,
    cases: Mapping[str, Case],
    found: Sequence[Row],
    windows: Mapping[str, Sequence[Window]],
    folder: Path,
) -> Section:
    whole = [r for r in found if r.window == windows[r.case][0]]
    widest = [r for r in whole if r.page == _widest(whole, r.case)]
    order = [label for label in cases if any(row.case == label for row in widest)]
    titles = {label: case.title for label, case in cases.items()}
    tables = [_side_by_side(widest, order, titles)]
    for figure in ("mean", "p99"):
        cells = {(r.case, r.method): _to_sed(r, figure) for r in widest}
        methods = list(dict.fromkeys(row.method for row in widest))
        tables.append(
            Table(
                f"{figure}, ratio to SED",
                "",
                ("method", *(titles[label] for label in order)),
                tuple(
                    (method, *(cells.get((label, method), NOTHING) for label in order))
                    for method in methods
                ),
            )
        )
    pictures = [
        plots.save(
            plots.ratios(widest, order, figure, titles), folder / f"{name}-ratios-{figure}.png"
        )
        for figure in ("mean", "p99")
    ]
    against, verdict = _against(widest, order, titles)
    return Section(ALL_CASES, verdict, tables + against, pictures)


def _side_by_side(found: Sequence[Row], order: Sequence[str], titles: Mapping[str, str]) -> Table:
    """What every method took in each case."""
    by_place = {(row.case, row.method): row for row in found}
    lines = []
    for method in dict.fromkeys(row.method for row in found):
        cells = [method]
        for label in order:
            row = by_place.get((label, method))
            if row is None:
                cells += [NOTHING] * 5
            else:
                doubt = DOUBTED if row.believable < row.repetitions else ""
                cells += [_ms(row.seconds[figure]) + doubt for figure in ("mean", "p90", "p99")]
                cells += [str(row.failed), _plain(row.load)]
        lines.append(tuple(cells))
    names = ("mean", "p90", "p99", "failed", "load")
    head = [f"{titles[label]}: {name}" for label in order for name in names]
    note = f"Latency of all pages.{DOUBTED} some of it from runs that are not to be believed."
    return Table("Milliseconds", note, ("method", *head), tuple(lines))


def _widest(found: Sequence[Row], case: str) -> str:
    pages = {row.page for row in found if row.case == case}
    return ALL if ALL in pages else next(iter(pages))


def _against(
    found: Sequence[Row], order: Sequence[str], titles: Mapping[str, str]
) -> tuple[list[Table], str]:
    """The agent over every other method, case by case, and in words."""
    agents = dict.fromkeys(row.method for row in found if learned(row.method))
    others = dict.fromkeys(row.method for row in found if not learned(row.method))
    by_place = {(row.case, row.method): row for row in found}
    tables = []
    for method in agents:
        for figure in FIGURES_JUDGED:
            lines = []
            for other in others:
                cells = []
                for label in order:
                    mine, theirs = by_place.get((label, method)), by_place.get((label, other))
                    known = mine is not None and theirs is not None
                    cells.append(_interval(mine.over(theirs, figure)) if known else NOTHING)
                if any(cell != NOTHING for cell in cells):
                    lines.append((other, *cells))
            note = "Below 1 the agent is ahead. The same requests, runs that are to be believed."
            columns = ("method", *(titles[label] for label in order))
            if lines:
                tables.append(
                    Table(f"{figure} of {method} over the method's", note, columns, tuple(lines))
                )
    said = {label: in_words([row for row in found if row.case == label]) for label in order}
    if len(set(said.values())) == 1:
        return tables, next(iter(said.values()))
    return tables, " ".join(f"{titles[label]}: {text}" for label, text in said.items() if text)


def _case(
    name: str,
    label: str,
    case: Case,
    found: Sequence[Row],
    runs: Sequence[Kept],
    size: Size,
    timeout_s: float,
    folder: Path,
) -> Section:
    settle_s, run_s = size.settle_s, size.run_s
    latencies = {
        (page, window): _latencies(
            page, window, [r for r in found if (r.page, r.window) == (page, window)]
        )
        for window in dict.fromkeys(row.window for row in found)
        for page in dict.fromkeys(row.page for row in found)
    }
    widest = _widest(found, label)
    known = columns()
    wanted = [known[column] for column in case.beside]
    burning = any(event.burn for event in case.events)
    tables = [table for (page, _), table in latencies.items() if page == widest]
    tables += _beside(wanted, [r for r in found if r.window == found[0].window])
    tables.append(_busy(runs, settle_s, run_s))
    details = [table for (page, _), table in latencies.items() if page != widest]
    details.append(_used(runs, settle_s, run_s, burning))
    stem = f"{name}-{label}"
    pictures = [
        plots.save(plots.latency(runs, settle_s, timeout_s), folder / f"{stem}-latency.png"),
        plots.save(plots.busy(runs, settle_s, run_s), folder / f"{stem}-busy.png"),
    ]
    if case.events or case.windows_s:
        marks = [event.at_s for event in case.events]
        pictures.append(
            plots.save(plots.over_time(runs, marks, timeout_s), folder / f"{stem}-time.png")
        )
    rate = sum(len(kept.requests()) for kept in runs) / run_s / len(runs)
    planned = planned_load(case)
    text = f"{rate:.1f} requests a second; {len(runs)} runs of {run_s:g} s"
    text += f"; planned load {planned:.2f}. " if planned is not None else ". "
    whole = [row for row in found if row.window == found[0].window]
    text += " ".join(part for part in (doubted(runs), in_words(whole)) if part)
    return Section(case.title, text, tables, pictures, details)


def planned_load(case: Case) -> float | None:
    """What the servers were to be loaded with, on average over a run; None for a fixed rate."""
    traffic = case.traffic
    if traffic.load is None:
        return None
    return traffic.load * (float(shape(traffic).mean()) if isinstance(traffic, Day) else 1.0)


def doubted(runs: Sequence[Kept]) -> str:
    """Names every run that is not to be believed, and why; empty if there is none."""
    several = len({kept.case for kept in runs}) > 1
    named = [
        f"{f'{kept.case} ' if several else ''}{kept.method} {kept.repetition} "
        f"({', '.join(kept.record['why_not'])})"
        for kept in runs
        if kept.record.get("why_not")
    ]
    if not named:
        return ""
    return f"Not to be believed, {len(named)} of {len(runs)} runs: {'; '.join(named)}."


def alike(runs: Sequence[Kept]) -> list[Kept]:
    """Those of each case that are what its newest one is: others were left by another file."""

    def kind(kept: Kept) -> Mapping[str, Any]:
        return {k: v for k, v in kept.record["content"].items() if k != "seed"}

    newest: dict[str, Kept] = {}
    for kept in sorted(runs, key=lambda kept: float(kept.record.get("began_s", 0.0))):
        newest[kept.case] = kept
    return [kept for kept in runs if kind(kept) == kind(newest[kept.case])]


def _latencies(page: str, window: Window, found: Sequence[Row]) -> Table:
    title = "Latency" if page == ALL else f"Latency, {page} pages"
    return Table(
        f"{title}, {window[0]:g} to {window[1]:g} s",
        "",
        (
            "method",
            "mean",
            "to SED",
            "p50",
            "p90",
            "p99",
            "p99 to SED",
            "answered",
            "failed",
            "CPU",
            "load",
            "sound",
        ),
        tuple(
            (
                row.method,
                _ms_interval(row.seconds["mean"]),
                _to_sed(row, "mean"),
                _ms(row.seconds["p50"]),
                _ms(row.seconds["p90"]),
                _ms(row.seconds["p99"]),
                _to_sed(row, "p99"),
                _ms(row.seconds["answered_mean"]),
                f"{row.failed} of {row.requests}",
                f"{row.balancer_us:.0f}",
                _plain(row.load),
                f"{row.believable} of {row.repetitions}",
            )
            for row in found
        ),
    )


def _beside(wanted: Sequence[Column], found: Sequence[Row]) -> list[Table]:
    """Ours and the papers', as ratios to SED; the papers' learned methods beside our agent."""
    if not wanted:
        return []
    by_page = {(row.page, row.method): row for row in found}
    methods = [
        *dict.fromkeys(row.method for row in found),
        *(m for m in LEARNED if any(m in column.seconds for column in wanted)),
    ]
    groups: dict[tuple[str, str], list[Column]] = {}
    for column in wanted:
        page = next((page for page in ("wiki", "static") if column.name.endswith(page)), "loop")
        groups.setdefault((page, column.figure), []).append(column)
    lines = []
    for method in methods:
        cells = [method]
        for (page, figure), alike_columns in groups.items():
            row = by_page.get((page, method)) or by_page.get((ALL, method))
            row = row or by_page.get(("loop", method))
            cells.append(_to_sed(row, figure) if row else NOTHING)
            cells += [_plain(column.ratio(method)) for column in alike_columns]
        lines.append(tuple(cells))
    head = []
    for (page, figure), alike_columns in groups.items():
        head += [f"{page}, {figure}: ours", *(column.title for column in alike_columns)]
    note = "Ratios to SED: ours, and the paper's in that table and column."
    return [Table("Beside the papers", note, ("method", *head), tuple(lines))]


def _used(runs: Sequence[Kept], settle_s: float, run_s: float, burning: bool) -> Table:
    """How busy each server's CPU was, mean over repetitions."""
    by_method: dict[str, list[dict[str, float]]] = {}
    for kept in runs:
        by_method.setdefault(kept.method, []).append(used_by_server(kept, settle_s, run_s))
    servers = list(dict.fromkeys(s for found in by_method.values() for used in found for s in used))
    lines = []
    for method, found in by_method.items():
        means = [sum(used[server] for used in found) / len(found) for server in servers]
        lines.append((method, *(f"{mean:.0%}" for mean in means)))
    note = "CPU used over CPU provided at each moment, from the servers themselves."
    if burning:
        note += " What the burners use is in it."
    return Table("Servers", note, ("method", *servers), tuple(lines))


def _busy(runs: Sequence[Kept], settle_s: float, run_s: float) -> Table:
    """How many workers of a server are busy, by group; and the last group's over the first's."""
    by_method: dict[str, dict[str, list[int]]] = {}
    for kept in runs:
        for group, looks in busy_by_group(kept, settle_s, run_s).items():
            by_method.setdefault(kept.method, {}).setdefault(group, []).extend(looks)
    groups = list(dict.fromkeys(group for found in by_method.values() for group in found))
    lines = []
    for method, found in by_method.items():
        means = [sum(found[group]) / len(found[group]) for group in groups]
        ratio = means[-1] / means[0] if means[0] else math.nan
        lines.append((method, *(f"{mean:.1f}" for mean in means), _plain(ratio)))
    note = "Mean over looks and servers of a group."
    columns = ("method", *groups, f"{groups[-1]} over {groups[0]}")
    return Table("Busy workers", note, columns, tuple(lines))


def _table(found: Sequence[Row]) -> pl.DataFrame:
    """Every figure, one row each."""
    return pl.DataFrame(
        [
            {
                "case": row.case,
                "page": row.page,
                "from_s": row.window[0],
                "to_s": row.window[1],
                "method": row.method,
                "figure": figure,
                "repetitions": row.repetitions,
                "requests": row.requests,
                "failed": row.failed,
                "seconds": row.seconds[figure].estimate,
                "low": row.seconds[figure].low,
                "high": row.seconds[figure].high,
                "ratio": ratio.estimate if (ratio := row.ratio[figure]) else None,
                "ratio_low": ratio.low if ratio else None,
                "ratio_high": ratio.high if ratio else None,
                "believable": row.believable,
                "load": row.load,
            }
            for row in found
            for figure in FIGURES
        ]
    )


def _ms(interval: Interval) -> str:
    return _plain(interval.estimate * 1e3, 1)


def _ms_interval(interval: Interval) -> str:
    if not math.isfinite(interval.estimate):
        return NOTHING
    if not math.isfinite(interval.low):
        return _ms(interval)
    low, high = max(interval.low, 0.0) * 1e3, interval.high * 1e3
    return f"{interval.estimate * 1e3:.1f} ({low:.1f} to {high:.1f})"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return NOTHING
    if not math.isfinite(interval.low):
        return _plain(interval.estimate)
    return f"{interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _to_sed(row: Row, figure: str) -> str:
    """The ratio, with a mark where it is of runs that are not to be believed."""
    ratio = row.ratio[figure]
    return _interval(ratio) + (DOUBTED if ratio and not row.ratio_sound else "")


def _plain(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
