"""One daemon before one server that the measuring process itself plays.

Lives here: its configuration, its start, its region. Never here: the server, traffic, a
measurement.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from shm.region import Region
from testbed.processes import Children, free_ports

READY_S = 20.0


class Single(NamedTuple):
    """A running daemon: where it listens, and its only service's region."""

    port: int
    region: Region


@contextlib.contextmanager
def single(server_port: int, workers: int) -> Iterator[Single]:
    """Ends the daemon on the way out. Raises ChildError if it does not come up."""
    (port,) = free_ports(1)
    name = f"bench-{secrets.token_hex(3)}"
    with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
        config = Path(folder) / "lbd.yaml"
        config.write_text(
            f"""workers: {workers}
services:
  - name: {name}
    listen: "127.0.0.1:{port}"
    policy: sed
    max_connections: 20000
    backends: [{{name: s, address: "127.0.0.1:{server_port}"}}]
"""
        )
        daemon = children.start("lbd", [sys.executable, "-m", "lbd", "--config", str(config)])
        daemon.wait_line("ready", READY_S)
        region = Region.attach(name)
        try:
            yield Single(port, region)
        finally:
            region.close()


def within(deadline_s: float, condition: Callable[[], bool]) -> bool:
    """Whether `condition` came true in time."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.005)
    return True
