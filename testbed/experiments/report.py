"""The report of one experiment or of all: a page in Markdown and the same in HTML, plots beside it.

Lives here: what is shown and in which words. Never here: numbers (`figures`, `beside`, `studies`),
drawing (`plots`).
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import markdown as to_html
import polars as pl

from testbed.experiments import plots
from testbed.experiments.beside import LEARNED, Column, columns
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
from testbed.experiments.schema import Case, Experiment, Form
from testbed.experiments.season import cases_of, methods_of, size_of
from testbed.experiments.store import Kept
from testbed.sim.league.report import markdown
from testbed.sim.league.summary import Table
from testbed.stats import Interval

NOTHING = "-"


@dataclass(frozen=True)
class Section:
    """A part of the page: its tables and pictures under one heading."""

    title: str
    text: str
    tables: Sequence[Table]
    pictures: Sequence[Path] = ()


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
    runs = sorted(
        (kept for kept in runs if kept.case in cases),
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
            sections.append(
                _case(name, label, case, mine, of_case, size.settle_s, size.run_s, folder)
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
    tables = []
    for figure in ("mean", "p99"):
        cells = {(r.case, r.method): r.ratio[figure] for r in widest}
        methods = list(dict.fromkeys(row.method for row in widest))
        tables.append(
            Table(
                f"{figure}, ratio to SED",
                "With the 95 % bootstrap interval over repetitions on the same requests.",
                ("method", *(titles[label] for label in order)),
                tuple(
                    (method, *(_interval(cells.get((label, method))) for label in order))
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
    return Section("All cases", verdict, tables + against, pictures)


def _widest(found: Sequence[Row], case: str) -> str:
    pages = {row.page for row in found if row.case == case}
    return ALL if ALL in pages else next(iter(pages))


def _against(
    found: Sequence[Row], order: Sequence[str], titles: Mapping[str, str]
) -> tuple[list[Table], str]:
    """The agent's mean over every other method's, and in words where it is above."""
    agents = [row for row in found if learned(row.method)]
    others = list(dict.fromkeys(row.method for row in found if not learned(row.method)))
    tables, lost = [], []
    for method in dict.fromkeys(row.method for row in agents):
        cells: dict[tuple[str, str], Interval | None] = {}
        for mine in (row for row in agents if row.method == method):
            for other in (row for row in found if row.case == mine.case):
                ratio = cells[mine.case, other.method] = mine.over(other)
                if ratio is not None and ratio.low > 1.0:
                    lost.append(f"{titles[mine.case]}: {other.method}")
        lines = [
            (other, *(_interval(cells.get((label, other))) for label in order)) for other in others
        ]
        note = "Below 1 the agent is ahead. The same requests, bootstrap over repetitions."
        columns = ("method", *(titles[label] for label in order))
        tables.append(Table(f"mean of {method} over the method's", note, columns, tuple(lines)))
    if not agents:
        return [], ""
    if not lost:
        return tables, "Nowhere is the agent's mean above another's beyond their ratio's interval."
    text = "The agent's mean is above another's beyond their ratio's interval here: "
    return tables, text + "; ".join(lost) + "."


def _case(
    name: str,
    label: str,
    case: Case,
    found: Sequence[Row],
    runs: Sequence[Kept],
    settle_s: float,
    run_s: float,
    folder: Path,
) -> Section:
    tables = [
        _latencies(page, window, [r for r in found if (r.page, r.window) == (page, window)])
        for window in dict.fromkeys(row.window for row in found)
        for page in dict.fromkeys(row.page for row in found)
    ]
    known = columns()
    wanted = [known[column] for column in case.beside]
    tables += _beside(wanted, [r for r in found if r.window == found[0].window])
    tables += [_used(runs, settle_s, run_s), _busy(runs, settle_s, run_s)]
    stem = f"{name}-{label}"
    pictures = [
        plots.save(plots.latency(runs, settle_s), folder / f"{stem}-latency.png"),
        plots.save(plots.busy(runs, settle_s, run_s), folder / f"{stem}-busy.png"),
    ]
    if case.events or case.windows_s:
        marks = [event.at_s for event in case.events]
        pictures.append(plots.save(plots.over_time(runs, marks), folder / f"{stem}-time.png"))
    rate = float(runs[0].record["content"]["rate_per_s"])
    late = sum(bool(kept.record["why_not"]) for kept in runs)
    text = f"{rate:.1f} requests a second; {len(runs)} runs of {run_s:g} s."
    if late:
        text += f" In {late} of them the load generator was late: read those with care."
    return Section(case.title, text, tables, pictures)


def _latencies(page: str, window: Window, found: Sequence[Row]) -> Table:
    title = "Latency" if page == ALL else f"Latency, {page} pages"
    return Table(
        f"{title}, {window[0]:g} to {window[1]:g} s",
        "Milliseconds from the planned time; mean over repetitions (95 %, Student's t). "
        "all: failures counted as long as a client waits. CPU: of all balancers, "
        "microseconds a request.",
        (
            "method",
            "mean",
            "to SED",
            "p50",
            "p90",
            "p99",
            "p99 to SED",
            "all",
            "failed",
            "CPU",
            "punctual",
        ),
        tuple(
            (
                row.method,
                _ms_interval(row.seconds["mean"]),
                _interval(row.ratio["mean"]),
                _ms(row.seconds["p50"]),
                _ms(row.seconds["p90"]),
                _ms(row.seconds["p99"]),
                _interval(row.ratio["p99"]),
                _ms(row.seconds["all_mean"]),
                f"{row.failed} of {row.requests}",
                f"{row.balancer_us:.0f}",
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
    lines = []
    for method in methods:
        cells = [method]
        for column in wanted:
            page = column.name.rsplit("-", 1)[-1]
            row = by_page.get((page, method)) or by_page.get((ALL, method))
            row = row or by_page.get(("loop", method))
            cells.append(_interval(row.ratio[column.figure]) if row else NOTHING)
            cells.append(_plain(column.ratio(method)))
        lines.append(tuple(cells))
    head = [part for c in wanted for part in (f"ours, {c.figure}", c.title)]
    note = "Ratios to SED: ours, and the paper's in that table and column."
    return [Table("Beside the papers", note, ("method", *head), tuple(lines))]


def _used(runs: Sequence[Kept], settle_s: float, run_s: float) -> Table:
    """How busy each server's CPU was, mean over repetitions."""
    by_method: dict[str, list[dict[str, float]]] = {}
    for kept in runs:
        by_method.setdefault(kept.method, []).append(used_by_server(kept, settle_s, run_s))
    servers = list(dict.fromkeys(s for found in by_method.values() for used in found for s in used))
    lines = []
    for method, found in by_method.items():
        means = [sum(used[server] for used in found) / len(found) for server in servers]
        lines.append((method, *(f"{mean:.0%}" for mean in means)))
    note = "CPU used over CPU provided, from the servers themselves."
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
    note = (
        "Mean over looks and servers of a group. CIKM reports 2.33 for SED with two balancers "
        "(figure 9), 2.67 and 2.25 with six (figure 10), and about 1 for its learned method."
    )
    columns = ("method", *groups, f"{groups[-1]} over {groups[0]}")
    return Table("Busy workers", note, columns, tuple(lines))


def write(
    folder: Path, title: str, parts: Iterable[tuple[str, str, Sequence[Section]]], about: str
) -> Path:
    """`results.md` and `index.html`; parts: (title, about, sections). The page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"# {title}", about]
    for heading, text, sections in parts:
        lines += [f"## {heading}", text]
        for section in sections:
            lines += [f"### {section.title}", section.text]
            lines += [_deeper(markdown(table)) for table in section.tables]
            lines += [f"![{p.stem}]({p.relative_to(folder)})" for p in section.pictures]
    page = "\n\n".join(line for line in lines if line) + "\n"
    (folder / "results.md").write_text(page)
    body = to_html.markdown(page, extensions=["tables"])
    path = folder / "index.html"
    path.write_text(_PAGE.substitute(title=html.escape(title), body=body))
    return path


def _deeper(text: str) -> str:
    """A table's heading two levels further down."""
    return f"##{text}"


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
            }
            for row in found
            for figure in FIGURES
        ]
    )


def manifest(experiment: Experiment, form: Form, runs: Sequence[Kept]) -> str:
    """What was run where, as JSON."""
    return json.dumps(
        {
            "form": form,
            "experiment": experiment.model_dump(mode="json"),
            "runs": [dict(kept.record) for kept in runs],
        },
        indent=1,
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


def _plain(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .15rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #8882 }
img { max-width: 100% }
</style>
$body
</html>
""")
