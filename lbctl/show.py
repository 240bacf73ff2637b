"""What the API says, as tables for people.

Lives here: columns and units. Never here: asking (`lbctl.client`), the terminal (`lbctl.cli`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Values = Mapping[str, Any]

_STATE_STYLE = {
    "up": "green",
    "slow_start": "cyan",
    "drain": "yellow",
    "leaving": "yellow",
    "maint": "yellow",
    "ejected": "red",
    "down": "bold red",
}


SERVICE_COLUMNS = (
    *("service", "listen", "policy", "weights", "usable", "flows", "queued", "accepted"),
    *("agent", "reward", "in force"),
)
BACKEND_COLUMNS = (
    *("backend", "address", "state", "weight", "configured", "flows", "limit"),
    *("sessions", "failures", "connect", "response", "p99"),
)


def status(found: Values) -> RenderableType:
    workers = _table("worker", "pid", "heartbeat")
    for worker in found["workers"]:
        workers.add_row(
            str(worker["number"]), _or_dash(worker["pid"]), _ago(worker["heartbeat_age_s"])
        )
    services = _table(*SERVICE_COLUMNS)
    for service in found["services"]:
        services.add_row(*service_cells(service))
    return Group(*daemon(found), workers, services)


def daemon(found: Values) -> list[str]:
    """Two lines of a status."""
    running = sum(worker["pid"] is not None for worker in found["workers"])
    return [
        f"lbd {found['version']}, pid {found['pid']}, up {_time(found['uptime_s'])}, "
        f"{found['config']}",
        f"you may {found['level']}; {found['changes']} keys changed at run time; "
        f"{running} of {len(found['workers'])} workers, "
        f"restarts: {found['worker_restarts_total']}, "
        f"draining: {found['draining_workers']}",
    ]


def service_cells(service: Values) -> list[str | Text]:
    """A row of SERVICE_COLUMNS."""
    agent = service["agent"]
    mode = agent["mode"] or "none"
    return [
        service["name"],
        service["listen"],
        service["policy"],
        service["weights"],
        f"{service['usable']}/{service['backends']}",
        f"{service['flows']}/{service['max_connections']}",
        str(service["queued"]),
        str(service["accepted_total"]),
        mode if agent["order"] == "none" else f"{mode} ({agent['order']} ordered)",
        "-" if agent["reward"] is None else f"{agent['reward']:.3f}",
        f"{agent['weights_in_force']} workers",
    ]


def peers(found: Values) -> RenderableType:
    if not found["peers"]:
        return "no peers"
    table = _table("peer", "heard", "sent", "not sent", "received", "lost")
    for peer in found["peers"]:
        table.add_row(
            peer["peer"],
            Text(_ago(peer["heard_age_s"]), style="green" if peer["up"] else "red"),
            *(str(peer[f"{what}_total"]) for what in ("sent", "dropped", "received", "lost")),
        )
    refused = {reason: count for reason, count in found["refused_total"].items() if count}
    if refused:
        told = ", ".join(f"{reason} {count}" for reason, count in refused.items())
        table.caption = f"refused: {told}"
    return table


def backends(service: str, found: Values) -> RenderableType:
    table = _table(*BACKEND_COLUMNS, title=service)
    for row in found["backends"]:
        table.add_row(*backend_cells(row))
    if any(row["changed"] for row in found["backends"]):
        table.caption = "* changed at run time"
    return table


def backend_cells(row: Values) -> list[str | Text]:
    """A row of BACKEND_COLUMNS; a star at what was changed at run time."""
    state = row["state"] if row["share"] == 1.0 else f"{row['state']} {row['share']:.0%}"
    return [
        row["name"] + ("*" if row["changed"] else ""),
        row["address"],
        Text(state, style=_STATE_STYLE.get(row["state"], "")),
        f"{row['weight']:.3g}",
        f"{row['configured_weight']:.3g}",
        str(row["flows"]),
        _or_dash(row["max_connections"]),
        str(row["sessions_total"]),
        str(row["failures_total"]),
        _ms(row["connect_ms"]),
        _ms(row["response_ms"]),
        _ms(row["response_p99_ms"]),
    ]


def flows(found: Values) -> RenderableType:
    table = _table("client", "backend", "state", "age", "idle", "in", "out", "worker")
    for flow in found["flows"]:
        table.add_row(
            flow["client"],
            flow["backend"],
            flow["state"],
            _time(flow["age_s"]),
            _time(flow["idle_s"]),
            _bytes(flow["bytes_in"]),
            _bytes(flow["bytes_out"]),
            str(flow["worker"]),
        )
    table.caption = f"{len(found['flows'])} oldest of {found['open']}"
    return table


def explanations(found: Values) -> RenderableType:
    return Group(*map(_explanation, found["workers"]))


def _explanation(one: Values) -> RenderableType:
    table = _table(
        *("backend", "q", "weight", "score", "last score", ""),
        title=f"worker {one['worker']}: {one['policy']}, {one['weights']} weights",
    )
    for row in one["backends"]:
        table.add_row(
            row["backend"],
            f"{row['q']:g}",
            f"{row['weight']:.4g}",
            _score(row["score"]),
            _score(row["last_score"]),
            "<- chosen last" if row["chosen"] else "" if row["usable"] else "not usable",
        )
    compares = any(row["score"] is not None for row in one["backends"])
    table.caption = "the least score wins" if compares else f"{one['policy']} compares no scores"
    return table


def changes(found: Values) -> RenderableType:
    if not found["changes"]:
        return "no changes"
    table = _table("key", "in the file", "in force")
    for change in found["changes"]:
        table.add_row(change["key"], _told(change["before"]), _told(change["after"]))
    return table


def done(found: Values) -> RenderableType:
    """What a wish has changed."""
    lines = [f"{c['key']}: {_told(c['before'])} -> {_told(c['after'])}" for c in found["changes"]]
    return "\n".join(lines) if lines else "nothing to change"


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=None)
    for column in columns:
        table.add_column(column, justify=justified(column), overflow="fold")
    return table


def justified(column: str) -> Literal["left", "right"]:
    """Words are read from the left, numbers from the right."""
    words = (
        "backend",
        "address",
        "state",
        "service",
        "listen",
        "policy",
        "weights",
        "agent",
        "peer",
    )
    return "left" if column in (*words, "client", "key", "in the file", "in force", "") else "right"


def _told(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict) and "address" in value:
        return str(value["address"])
    return str(value)


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1000:.3g} s"


def _ago(age_s: float | None) -> str:
    return "never" if age_s is None else f"{age_s:.2f} s ago"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _bytes(count: int) -> str:
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
