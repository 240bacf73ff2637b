"""The command `python -m shm`: shows regions and removes dead ones.

Lives here: arguments, text, exit codes. Never here: anything that changes a live region.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from shm import describe, segment
from shm.errors import RegionAbsent, RegionBusy, RegionError
from shm.region import Region


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 a region that cannot be shown or removed, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m shm", description="Show and clean up the shared memory of lbd."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    dump = commands.add_parser("dump", help="show one live region")
    dump.add_argument("name", metavar="NAME", help="the service")
    dump.add_argument("--json", action="store_true", help="as JSON")
    commands.add_parser("list", help="show which segments there are")
    clean = commands.add_parser("clean", help="remove what dead owners left, never a live one")
    clean.add_argument("name", metavar="NAME", nargs="?", help="only this service")
    clean.add_argument("--dry-run", action="store_true", help="say it, do not do it")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "dump":
            return _dump(arguments.name, arguments.json)
        if arguments.command == "list":
            return _list()
        return _clean(arguments.name, arguments.dry_run)
    except RegionError as error:
        print(f"shm: {error}", file=sys.stderr)
        return 1


def _dump(name: str, as_json: bool) -> int:
    live = Region.attach(name)
    try:
        found = describe.region(live)
    finally:
        live.close()
    print(json.dumps(found, indent=2) if as_json else "\n".join(_text(found)))
    return 0


def _list() -> int:
    lines: list[tuple[str, ...]] = [
        ("NAME", "BYTES", "GENERATION", "OWNER", "STATE", "AGENT", "AGE", "")
    ]
    for name in segment.present():
        found = describe.one(name)
        lines.append(
            (
                name,
                _or_dash(found["bytes"]),
                _or_dash(found["generation"]),
                _or_dash(found["owner_pid"]),
                {True: "alive", False: "dead", None: "-"}[found["alive"]],
                {True: "yes", False: "no", None: "-"}[found["agent"]],
                "-" if found["age_s"] is None else f"{found['age_s']:.0f}s",
                found["problem"] or "",
            )
        )
    print("\n".join(_table(lines)))
    return 0


def _clean(only: str | None, dry_run: bool) -> int:
    failed = False
    for name in [only] if only is not None else segment.present():
        try:
            print(_clean_one(name, dry_run))
        except RegionError as error:
            # A live one, or one gone by itself, is a failure only for who asked for it by name.
            if only is None and isinstance(error, RegionBusy):
                print(f"{name}: kept, its owner is alive")
            elif only is not None or not isinstance(error, RegionAbsent):
                print(f"shm: {error}", file=sys.stderr)
                failed = True
    return 1 if failed else 0


def _clean_one(name: str, dry_run: bool) -> str:
    if dry_run:
        if segment.role_held(name, segment.OWNER_BYTE):
            raise RegionBusy(f"shm {segment.file_name(name)} belongs to a live process")
        return f"{name}: dead, would be removed"
    if not segment.remove_dead(name):
        raise RegionAbsent(f"no shm {segment.file_name(name)}")
    return f"{name}: dead, removed"


def _text(found: dict[str, Any]) -> list[str]:
    owner, agent, geometry = found["owner"], found["agent"], found["geometry"]
    lines = [
        f"service {found['service']}, generation {found['generation']}",
        f"owner   pid {owner['pid']}, {_life(owner['alive'])}, "
        f"heartbeat {_ago(owner['heartbeat_age_s'])}",
        f"agent   pid {agent['pid'] or '-'}, {_life(agent['alive'])}, "
        f"heartbeat {_ago(agent['heartbeat_age_s'])}, mode {agent['mode']}, "
        f"{agent['steps_total']} steps, {agent['learner_updates_total']} learner updates, "
        f"{agent['transitions_dropped_total']} transitions dropped",
        f"size    {geometry['workers']} workers, {geometry['slots']} slots, "
        f"{geometry['reservoir']} samples, {geometry['depth']} frames, {geometry['bytes']} bytes",
    ]
    for backend in found["backends"]:
        lines += ["", *_backend_text(backend)]
    for worker in found["workers"]:
        scalars = ", ".join(
            f"{name} {value}"
            for name, value in worker.items()
            if name not in ("worker", "heartbeat_age_s", "pid")
        )
        lines += [
            "",
            f"worker {worker['worker']}: pid {worker['pid'] or '-'}, "
            f"heartbeat {_ago(worker['heartbeat_age_s'])}",
            f"  {scalars}",
        ]
    totals = ", ".join(f"{name} {value}" for name, value in found["totals"].items())
    return [*lines, "", f"all workers, dead ones too: {totals}"]


def _backend_text(backend: dict[str, Any]) -> list[str]:
    if backend["weight"] is None:
        weight = "no weight from the agent"
    else:
        left_s = backend["weight_left_s"]
        life = f"{left_s:.2f} s left" if left_s > 0 else f"expired {-left_s:.2f} s ago"
        age_s = _ago(backend["weight_age_s"])
        weight = f"weight {backend['weight']:.4g} ({life}, written {age_s})"
    age_ms = backend["waiting_mean_age_ms"]
    age = "" if age_ms is None else f", mean age {age_ms:.1f} ms"
    kinds = ", ".join(f"{kind} {_spread(backend[f'{kind}_ms'])}" for kind in ("duration", "fct"))
    totals = ", ".join(f"{name} {value}" for name, value in backend["totals"].items())
    return [
        f"slot {backend['slot']}, identity {backend['identity']}: {backend['name']} "
        f"{backend['address']}, {backend['state']}, "
        f"configured weight {backend['configured_weight']:g}, {weight}",
        f"  q {backend['flows_sum']} ({' + '.join(map(str, backend['flows']))}), "
        f"waiting {backend['waiting']}{age}; {kinds}",
        *_exchanges_text(backend),
        f"  {totals}",
    ]


def _exchanges_text(backend: dict[str, Any]) -> list[str]:
    if "exchanges" not in backend:
        return []
    age_ms = backend["exchanges_mean_age_ms"]
    age = "" if age_ms is None else f", mean age {age_ms:.1f} ms"
    return [
        f"  busy {backend['busy']}, exchanges {backend['exchanges']}{age}; "
        f"exchange {_spread(backend['exchange_ms'])}"
    ]


def _spread(samples: dict[str, Any]) -> str:
    if not samples["samples"]:
        return "no samples"
    return (
        f"mean {samples['mean']:.2f} ms, p90 {samples['p90']:.2f} ms ({samples['samples']} samples)"
    )


def _life(alive: bool) -> str:
    return "alive" if alive else "not there"


def _ago(age_s: float | None) -> str:
    return "never" if age_s is None else f"{age_s:.2f} s ago"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _table(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
