"""What the demo shows in the terminal: backends live, results as they come.

Lives here: tables. Never here: measuring.
"""

from __future__ import annotations

import math

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from testbed.demo.compare import CONFIGURED, Comparison, Run
from testbed.demo.figures import Row, table
from testbed.demo.scenario import METHODS, TITLES, Scenario
from testbed.stats import Interval
from testbed.watch import View

_BAR = 24


class Screen:
    """Live where there is a terminal; elsewhere a line a run."""

    def __init__(self, scenario: Scenario, console: Console | None = None) -> None:
        self.console = console or Console()
        self._scenario = scenario
        self._results = ""
        self._done: list[Run] = []
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def look(self, phase: str, method: str, view: View) -> None:
        """Show one look at the service under load."""
        if self._live is None:
            return
        parts = [Text(f"{phase}: {TITLES[method]}", style="bold"), self._backends(view)]
        if self._done:
            parts.append(results(table(Comparison(self._scenario, self._done))))
        self._live.update(Group(*parts))

    def run(self, run: Run) -> None:
        """Note a finished run."""
        self._done.append(run)
        if self._live is None:
            latency = run.result.summary().latency
            self.console.print(
                f"{run.repetition + 1}. {TITLES[run.method]}: mean {latency.mean_s * 1e3:.1f} ms, "
                f"p99 {latency.p99_s * 1e3:.0f} ms, failures {sum(run.result.failures().values())}"
            )

    def _backends(self, view: View) -> Table:
        shown = Table(box=None, pad_edge=False)
        for name in ("backend", "speed", "q", "", "share", "ms to first byte", "weight"):
            shown.add_column(name, justify="left" if name in ("backend", "") else "right")
        widest = max(int(view.flows.max(initial=0)), 8)
        for row, (name, speed) in enumerate(self._scenario.speeds.items()):
            latency_s = float(view.latency_s[row])
            shown.add_row(
                name,
                f"{speed:g}",
                str(int(view.flows[row])),
                "█" * round(int(view.flows[row]) / widest * _BAR),
                f"{view.share[row]:.1%}",
                "" if math.isnan(latency_s) else f"{latency_s * 1e3:.0f}",
                f"{view.weight[row]:.2f}",
            )
        return shown


def results(rows: list[Row], part: str = CONFIGURED) -> Table:
    """The comparison so far; milliseconds."""
    shown = Table(title=f"{part}: latency in ms, the same arrivals for all; 95 % intervals")
    for name in ("method", "mean", "p50", "p90", "p99", "to SED", "failed", "runs"):
        shown.add_column(name, justify="left" if name == "method" else "right")
    by_method = {row.method: row for row in rows}
    for method in METHODS:
        row = by_method.get(method.name)
        if row is None:
            continue
        failed = sum(row.failures.values())
        doubt = row.repetitions - row.believable
        shown.add_row(
            TITLES[row.method],
            _ms(row.mean),
            f"{row.p50.estimate * 1e3:.0f}",
            f"{row.p90.estimate * 1e3:.0f}",
            _ms(row.p99),
            "" if math.isnan(row.ratio) else f"{row.ratio:.2f}",
            f"{failed}" + (f" ({', '.join(row.failures)})" if failed else ""),
            f"{row.repetitions}" + (f", {doubt} with a late generator" if doubt else ""),
        )
    return shown


def _ms(interval: Interval) -> str:
    half = (interval.high - interval.estimate) * 1e3
    spread = f" ± {half:.0f}" if math.isfinite(half) else ""
    return f"{interval.estimate * 1e3:.0f}{spread}"
