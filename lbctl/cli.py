"""The command `lbctl`.

Lives here: arguments, exit codes, which request a command makes. Never here: tables (`lbctl.show`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console, RenderableType

from config.exit_codes import EXIT_OK, EXIT_RUNTIME
from config.load import ConfigError
from lbctl import show
from lbctl.client import ApiError, Client
from lbctl.save import SaveError, save

DEFAULT_SOCKET: Final = "/run/lbd/api.sock"
PIPED_COLUMNS: Final = 1000
EXIT_REFUSED: Final = EXIT_RUNTIME


class CommandError(Exception):
    """The command cannot be done here; the message says why."""


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 refused or not reached, 2 usage."""
    arguments = _parser().parse_args(argv)
    # What is piped elsewhere is as wide as it is.
    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    try:
        arguments.run(Client(arguments.socket), arguments, console)
    except (ApiError, CommandError, ConfigError, SaveError, OSError) as error:
        print(f"lbctl: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_OK
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lbctl", description="Looks at a running lbd and changes it, over its runtime API."
    )
    parser.add_argument(
        "--socket",
        default=os.environ.get("LBD_API", DEFAULT_SOCKET),
        metavar="PATH",
        help="the API's socket (default: $LBD_API, or %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print what the API answers")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[..., None], text: str, *arguments: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        for argument in arguments:
            made.add_argument(argument)
        return made

    command("status", _status, "the daemon, its workers, services and agents at a glance")
    command("peers", _peers, "the other balancers, and whether they are heard")
    command("backends", _backends, "the backends of a service", "service")
    found = command("flows", _flows, "the oldest open flows of a service", "service")
    found.add_argument("--limit", type=int, default=100)
    command("explain", _explain, "why each worker's last choice fell as it did", "service")
    found = command("top", _top, "services and backends, live (the extra `top`)")
    found.add_argument("--interval", type=float, default=1.0, metavar="SECONDS")
    command("changes", _changes, "what was changed at run time, against the file")
    command("config", _config, "the configuration in force")
    found = command("set", _set, "change a backend", "service", "backend")
    found.add_argument("key", choices=["weight", "state", "maxconn"])
    found.add_argument("value")
    found = command("drain", _drain, "no new flows to a backend", "service", "backend")
    found.add_argument("--deadline", type=float, metavar="SECONDS", help="end open flows then")
    found = command("add", _add, "another backend", "service", "backend", "address")
    found.add_argument("--weight", type=float, default=1.0)
    found.add_argument("--maxconn", type=int)
    command("remove", _remove, "a backend less; its flows may finish", "service", "backend")
    command("policy", _policy, "another policy for a service", "service", "policy")
    found = command("agent", _agent, "pause or resume the agent, or let it only watch")
    found.add_argument("order", choices=["pause", "resume", "shadow"])
    found.add_argument("service", nargs="?", help="default: all")
    command("reload", _reload, "take the file into force; run-time changes are undone")
    found = command("save", _save, "write what is in force into the file, comments kept")
    found.add_argument("--file", type=Path, help="default: the daemon's own")
    return parser


def _print(
    console: Console,
    arguments: argparse.Namespace,
    found: Any,
    shown: Callable[[Any], RenderableType],
) -> None:
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        console.print(shown(found), highlight=False)


def _status(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    _print(console, arguments, client.ask("GET", "status"), show.status)


def _peers(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    _print(console, arguments, client.ask("GET", "peers"), show.peers)


def _backends(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    name = arguments.service
    found = client.ask("GET", "services", name, "backends")
    _print(console, arguments, found, lambda rows: show.backends(name, rows))


def _flows(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    limit = {"limit": arguments.limit}
    found = client.ask("GET", "services", arguments.service, "flows", query=limit)
    _print(console, arguments, found, show.flows)


def _explain(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    found = client.ask("GET", "services", arguments.service, "explain")
    _print(console, arguments, found, show.explanations)


def _top(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    # Here: what has no screen needs no textual.
    try:
        from lbctl.top import TIMEOUT_S, Look, Top
    except ModuleNotFoundError as error:
        raise CommandError(f"top needs {error.name}: pip install 'lbd[top]'") from None
    if not console.is_terminal:
        raise CommandError("top needs a terminal; `status` and `backends` print once")
    quick = Client(arguments.socket, TIMEOUT_S)
    Top(lambda: Look.take(quick), arguments.interval).run()


def _changes(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    _print(console, arguments, client.ask("GET", "changes"), show.changes)


def _config(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    print(json.dumps(client.ask("GET", "config"), indent=1))


def _set(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    key, text = arguments.key, arguments.value
    values: dict[str, object]
    if key == "state":
        values = {"state": text}
    else:
        number = float if key == "weight" else int
        try:
            values = {"weight" if key == "weight" else "max_connections": number(text)}
        except ValueError:
            raise CommandError(f"{key}: found {text!r}, expected a number") from None
    _change(client, arguments, console, values)


def _drain(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    deadline = {} if arguments.deadline is None else {"deadline_s": arguments.deadline}
    _change(client, arguments, console, {"state": "drain", **deadline})


def _change(
    client: Client, arguments: argparse.Namespace, console: Console, values: dict[str, object]
) -> None:
    path = ("services", arguments.service, "backends", arguments.backend)
    _print(console, arguments, client.ask("PATCH", *path, body=values), show.done)


def _add(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    values = {
        "name": arguments.backend,
        "address": arguments.address,
        "weight": arguments.weight,
        "max_connections": arguments.maxconn,
    }
    found = client.ask("POST", "services", arguments.service, "backends", body=values)
    _print(console, arguments, found, show.done)


def _remove(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    path = ("services", arguments.service, "backends", arguments.backend)
    _print(console, arguments, client.ask("DELETE", *path), show.done)


def _policy(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    wish = {"policy": arguments.policy}
    found = client.ask("PATCH", "services", arguments.service, body=wish)
    _print(console, arguments, found, show.done)


def _agent(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    names = [service["name"] for service in client.ask("GET", "status")["services"]]
    for name in names if arguments.service is None else [arguments.service]:
        found = client.ask("POST", "services", name, "agent", body={"order": arguments.order})
        _print(console, arguments, found, lambda f: f"{f['name']}: {f['agent']['order']} ordered")


def _reload(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    _print(console, arguments, client.ask("POST", "reload"), show.done)


def _save(client: Client, arguments: argparse.Namespace, console: Console) -> None:
    own = Path(client.ask("GET", "status")["config"])
    path = arguments.file or own
    saved = save(path, client.ask("GET", "config"))
    print(f"{path}: {'saved' if saved else 'says so already'}")
    if saved and path == own:
        # It says what is in force; now the daemon knows that it does.
        client.ask("POST", "reload")
