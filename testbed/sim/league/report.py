"""The league's folder: a page in Markdown, the runs and the ratios as Parquet, the plots.

Lives here: files. Never here: statistics, what the tables say (`summary`), drawing (`plots`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from testbed.sim.league import plots
from testbed.sim.league.standings import Ratio, Standings
from testbed.sim.league.summary import Table


def write(
    folder: Path,
    title: str,
    runs: pl.DataFrame,
    standings: Standings,
    tables: Sequence[Table],
) -> Path:
    """Write everything; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_parquet(folder / "runs.parquet")
    ratios(standings).write_parquet(folder / "ratios.parquet")
    drawn = plots.draw(standings, folder)
    page = folder / "results.md"
    images = "\n".join(f"![{path.stem}]({path.name})" for path in drawn)
    parts = [f"# {title}", *(markdown(table) for table in tables), images]
    page.write_text("\n\n".join(parts) + "\n")
    return page


def ratios(standings: Standings) -> pl.DataFrame:
    """One row a ratio: to the reference, and to the best other heuristic of the scenario."""
    return pl.DataFrame(
        [
            {
                "scenario": r.scenario,
                "kind": r.kind,
                "policy": r.policy,
                "figure": r.figure,
                "beside": beside,
                "against": r.against,
                "ratio": r.interval.estimate,
                "low": r.interval.low,
                "high": r.interval.high,
                "verdict": r.verdict.value,
            }
            for beside, group in _groups(standings)
            for r in group
        ]
    )


def _groups(standings: Standings) -> tuple[tuple[str, tuple[Ratio, ...]], ...]:
    return ("reference", standings.to_reference), ("best heuristic", standings.to_rival)


def markdown(table: Table) -> str:
    """A heading, the note, the table; no table if it has no rows."""
    lines = [f"## {table.title}"]
    if table.note:
        lines += ["", table.note]
    if table.rows:
        lines += ["", _line(table.columns), _line("---" for _ in table.columns)]
        lines += [_line(row) for row in table.rows]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
