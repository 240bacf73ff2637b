"""`lbctl top`: services and backends, live, in a terminal.

Lives here: the screen, and what two looks tell together. Never here: HTTP (`lbctl.client`), cells
(`lbctl.show`), changes of any kind. Only this module wants textual, the extra `top`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Footer, Sparkline, Static

from lbctl import show
from lbctl.client import ApiError, Client

TREND: Final = 120
"""Looks whose connections a second are kept."""
TIMEOUT_S: Final = 5.0
"""A daemon that does not answer is told as such, soon."""
ORDERS: Final = ("as configured", "flows", "new/s", "response", "failures")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """What the API says at one moment; `backends` are rows by service."""

    at_s: float
    status: Values
    backends: Mapping[str, Sequence[Values]]

    @classmethod
    def take(cls, client: Client) -> Look:
        """Raises ApiError."""
        status = client.ask("GET", "status")
        names = [service["name"] for service in status["services"]]
        rows = {n: client.ask("GET", "services", n, "backends")["backends"] for n in names}
        return cls(monotonic(), status, rows)

    def service(self, name: str) -> Values | None:
        return next((one for one in self.status["services"] if one["name"] == name), None)

    def backend(self, service: str, name: str) -> Values | None:
        rows = self.backends.get(service, ())
        return next((one for one in rows if one["name"] == name), None)


def per_second(now: Values, before: Values | None, key: str, seconds: float) -> float | None:
    """How fast a counter grows; None without a look before, or where it started again."""
    if before is None or seconds <= 0 or now[key] < before[key]:
        return None
    return float((now[key] - before[key]) / seconds)


class Top(App[None]):
    """Asks `take` every `interval_s`, away from the screen's loop."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "Quit"),
        ("s", "sort", "Sort"),
        ("p", "pause", "Pause"),
        ("d", "scheme", "Dark/light"),
    ]
    CSS = """
    #daemon { height: auto; padding: 0 1; }
    #problem { height: auto; padding: 0 1; background: $error; color: $text; display: none; }
    #services { height: auto; max-height: 40%; margin: 1 0 0 0; }
    #title { height: 1; padding: 0 1; margin: 1 0 0 0; color: $text-muted; }
    #trend { height: 2; margin: 0 1; }
    #backends { height: 1fr; }
    """

    def __init__(self, take: Callable[[], Look], interval_s: float) -> None:
        super().__init__()
        self._take = take
        self._interval_s = interval_s
        self._looks: deque[Look] = deque(maxlen=2)
        self._trends: dict[str, deque[float]] = {}
        self._chosen = ""
        self._order = 0
        self._paused = False

    def compose(self) -> ComposeResult:
        yield Static("connecting", id="daemon")
        yield Static(id="problem", markup=False)
        yield DataTable(id="services", cursor_type="row")
        yield Static(id="title", markup=False)
        yield Sparkline([], id="trend")
        yield DataTable(id="backends", cursor_type="none")
        yield Footer()

    def on_mount(self) -> None:
        for kind, columns in (
            ("services", (*show.SERVICE_COLUMNS, "new/s")),
            ("backends", (*show.BACKEND_COLUMNS, "new/s")),
        ):
            for column in columns:
                self._table(kind).add_column(
                    Text(column, justify=show.justified(column)), key=column
                )
        self._table("services").focus()
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        while True:
            if not self._paused:
                problem, look = "", None
                try:
                    look = await asyncio.to_thread(self._take)
                except ApiError as error:
                    problem = f"{error}; trying again"
                if not self.query("#problem"):
                    return  # meanwhile the screen is being taken down
                self._tell_problem(problem)
                if look is not None:
                    self._looks.append(look)
                    self._note_trends()
                    self._draw()
            await asyncio.sleep(self._interval_s)

    # -- drawing

    def _table(self, kind: str) -> DataTable[Text]:
        return self.query_one(f"#{kind}", DataTable)

    def _tell_problem(self, text: str) -> None:
        problem = self.query_one("#problem", Static)
        problem.update(text)
        problem.display = bool(text)

    def _grown(self, service: str, backend: str | None = None) -> float | None:
        """Connections a second between the two newest looks."""
        before, now = self._looks[0], self._looks[-1]
        seconds = now.at_s - before.at_s
        if backend is None:
            one, other, key = now.service(service), before.service(service), "accepted_total"
        else:
            one, other = now.backend(service, backend), before.backend(service, backend)
            key = "sessions_total"
        return None if one is None else per_second(one, other, key, seconds)

    def _note_trends(self) -> None:
        names = [service["name"] for service in self._looks[-1].status["services"]]
        self._trends = {name: self._trends.get(name, deque(maxlen=TREND)) for name in names}
        for name, trend in self._trends.items():
            grown = self._grown(name)
            if grown is not None:
                trend.append(grown)

    def _draw(self) -> None:
        look = self._looks[-1]
        self.query_one("#daemon", Static).update(Text("\n".join(show.daemon(look.status))))
        services = look.status["services"]
        if self._chosen not in look.backends:
            self._chosen = services[0]["name"]
        _fill(
            self._table("services"),
            [
                (one["name"], (*show.service_cells(one), _rate(self._grown(one["name"]))))
                for one in services
            ],
        )
        self._draw_service()

    def _draw_service(self) -> None:
        name = self._chosen
        order = "" if not self._order else f", by {ORDERS[self._order]}"
        paused = ", paused" if self._paused else ""
        self.query_one("#title", Static).update(
            f"{name}: connections a second, and backends{order}{paused}"
        )
        self.query_one("#trend", Sparkline).data = list(self._trends[name])
        rows = [(one, self._grown(name, one["name"])) for one in self._looks[-1].backends[name]]
        rows.sort(key=lambda row: -_rank(ORDERS[self._order], *row))
        _fill(
            self._table("backends"),
            # Another service's backends may have the same names.
            [
                (f"{name}/{one['name']}", (*show.backend_cells(one), _rate(grown)))
                for one, grown in rows
            ],
        )

    # -- keys

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        chosen = event.row_key.value
        if event.data_table.id == "services" and chosen is not None and self._looks:
            self._chosen = chosen
            self._draw_service()

    def action_sort(self) -> None:
        self._order = (self._order + 1) % len(ORDERS)
        if self._looks:
            self._draw_service()

    def action_pause(self) -> None:
        self._paused = not self._paused
        if self._looks:
            self._draw_service()

    def action_scheme(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"


def _fill(table: DataTable[Text], rows: Iterable[tuple[str, Sequence[str | Text]]]) -> None:
    """Bring a table to `rows`, (key, cells) each: in place where keys and order are the same."""
    columns = [str(column.key.value) for column in table.ordered_columns]
    wanted = {
        key: [_cell(cell, column) for cell, column in zip(cells, columns, strict=True)]
        for key, cells in rows
    }
    if [row.key.value for row in table.ordered_rows] != list(wanted):
        at = table.cursor_row
        table.clear()
        for key, cells in wanted.items():
            table.add_row(*cells, key=key)
        table.move_cursor(row=min(at, len(wanted) - 1))
        return
    for row, cells in enumerate(wanted.values()):
        for column, cell in enumerate(cells):
            if table.get_cell_at(Coordinate(row, column)) != cell:
                table.update_cell_at(Coordinate(row, column), cell, update_width=True)


def _cell(cell: str | Text, column: str) -> Text:
    return Text(cell, justify=show.justified(column)) if isinstance(cell, str) else cell


def _rank(order: str, row: Values, grown: float | None) -> float:
    """The higher, the further up; the sort is stable."""
    found = {
        "flows": row["flows"],
        "new/s": grown,
        "response": row["response_p99_ms"],
        "failures": row["failures_total"],
    }.get(order)
    return found or 0.0


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"
