"""`python -m testbed server`: flags into settings.

Lives here: the flags. Never here: what the server does.
"""

from __future__ import annotations

import argparse

from testbed.server.backend import Fault, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's flags."""
    default = Settings()
    parser.add_argument(
        "--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT", help="0: any port"
    )
    parser.add_argument("--cpus", type=int, default=default.cpus, help="CPUs shared by the jobs")
    parser.add_argument(
        "--speed", type=float, default=default.speed, help="seconds of work that a CPU does in one"
    )
    parser.add_argument(
        "--in-service", type=int, default=default.in_service, help="most jobs served at a time"
    )
    parser.add_argument(
        "--backlog", type=int, default=default.backlog, help="most jobs waiting; beyond: reset"
    )
    parser.add_argument("--connections-max", type=int, default=default.connections_max)
    parser.add_argument(
        "--body-bytes", type=int, default=default.body_bytes, help="size of each answer's body"
    )
    parser.add_argument(
        "--iterations-per-s",
        type=float,
        default=default.iterations_per_s,
        help="loop iterations of /dummy.php that one CPU of speed 1 does in a second",
    )
    parser.add_argument(
        "--answer-half-closed",
        action="store_true",
        help="answer a client that closed its side, instead of dropping its job",
    )
    parser.add_argument("--fault", type=Fault, choices=list(Fault), default=default.fault)


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    from testbed.server.server import run as serve

    host, port = args.listen
    settings = Settings(
        cpus=args.cpus,
        speed=args.speed,
        in_service=args.in_service,
        backlog=args.backlog,
        connections_max=args.connections_max,
        body_bytes=args.body_bytes,
        iterations_per_s=args.iterations_per_s,
        half_close_is_gone=not args.answer_half_closed,
        fault=args.fault,
    )
    return serve(settings, host, port)


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as a pair; an argparse type."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)
