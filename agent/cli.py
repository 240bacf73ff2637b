"""The command `lbd-agent`.

Lives here: arguments, exit codes, messages. Never here: anything that a second caller would need.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial

from agent.commands import UnknownCommandError, find
from agent.learn.checkpoint import CheckpointError
from agent.live import run
from config.exit_codes import EXIT_CONFIG, EXIT_OK, EXIT_RUNTIME, EXIT_USAGE
from config.load import ConfigError, load
from config.schema import Config

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 stopped in order, 1 runtime error, 2 usage, 78 configuration.

    A first argument that is no option names a command of another package (`agent.commands`).
    """
    given = sys.argv[1:] if argv is None else argv
    if given and not given[0].startswith("-"):
        try:
            command = find(given[0])
        except UnknownCommandError as error:
            print(f"lbd-agent: {error}", file=sys.stderr)
            return EXIT_USAGE
        return command(given[1:])
    parser = argparse.ArgumentParser(
        prog="lbd-agent", description="Sets the weights of a running lbd through shared memory."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="the daemon's own file")
    arguments = parser.parse_args(given)
    read = partial(load, arguments.config)
    try:
        config = read()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    logging.basicConfig(level=logging.INFO, format="%(asctime)s lbd-agent %(message)s")
    following: Config | None = config
    former: Config | None = None
    while following is not None:
        try:
            former, following = following, run(following, read=read)
        except CheckpointError as error:
            if former is None:
                print(f"lbd-agent: {error}; the daemon goes on with its fallback", file=sys.stderr)
                return EXIT_RUNTIME
            log.error("not reloaded: %s", error)
            former, following = None, former
    return EXIT_OK
