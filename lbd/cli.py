"""The command `lbd`.

Lives here: arguments, exit codes, messages. Never here: anything that a second caller would need.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import os
import sys

import uvloop

from config.exit_codes import EXIT_CONFIG, EXIT_OK, EXIT_RUNTIME
from config.load import ConfigError, load
from lbd import logs
from lbd.activation import ActivationError
from lbd.sockets import ListenError
from lbd.supervisor import Supervisor
from shm.errors import RegionError


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 stopped in order, 1 runtime error, 2 usage, 78 configuration."""
    parser = argparse.ArgumentParser(prog="lbd", description="A self-tuning Layer-4 load balancer.")
    parser.add_argument("--config", required=True, metavar="FILE", help="the configuration, YAML")
    parser.add_argument("--check", action="store_true", help="check the configuration and stop")
    arguments = parser.parse_args(argv)
    try:
        config = load(arguments.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    if arguments.check:
        print(f"{arguments.config}: the configuration is valid")
        return EXIT_OK
    faulthandler.enable()
    try:
        writer = logs.start(config.log, "lbd")
    except OSError as error:
        print(f"lbd: cannot log to {config.log.file}: {error.strerror}", file=sys.stderr)
        return EXIT_RUNTIME
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(Supervisor(config, os.path.abspath(arguments.config), writer).run())
    except (ListenError, ActivationError, RegionError, OSError) as error:
        print(f"lbd: {error}", file=sys.stderr)
        return EXIT_RUNTIME
    finally:
        writer.close()
    return EXIT_OK
