"""The database machine: MariaDB with a copy of the wiki, memcached, and waiting for both.

Lives here: starting them. Never here: their command lines, building the wiki (`wiki`).
"""

from __future__ import annotations

import socket
import time
from functools import partial
from pathlib import Path

from testbed.lab import wiki
from testbed.lab.driver import LabError
from testbed.lab.machine import NamespaceMachine
from testbed.lab.topology import Topology

_READY_S = 60.0
_POLL_S = 0.05


def start(machine: NamespaceMachine, topology: Topology, cache: Path) -> None:
    """Both on the machine, the wiki's copy in its folder. Raises LabError where one does not."""
    assert topology.database is not None
    wiki.copy(machine.folder, cache)
    connections = sum(server.workers for server in topology.servers)
    commands = {
        wiki.DATABASE_PORT: wiki.mariadb(machine.folder, machine.address, connections),
        wiki.MEMCACHED_PORT: wiki.memcached(topology.database, machine.address),
    }
    for argv in commands.values():
        machine.start(argv, _log(machine, argv))
    for port, argv in commands.items():
        try:
            machine.call(partial(_greet, machine.address, port))
        except OSError as error:
            said = _log(machine, argv).read_text()
            raise LabError(
                f"{argv[0]} does not take connections ({error}); it said:\n{said}"
            ) from error


def _log(machine: NamespaceMachine, argv: list[str]) -> Path:
    return machine.folder / f"{argv[0]}.log"


def _greet(address: str, port: int) -> None:
    """Until it says something: MariaDB by itself, memcached when asked."""
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            with socket.create_connection((address, port), timeout=_READY_S) as connection:
                if port == wiki.MEMCACHED_PORT:
                    connection.sendall(b"version\r\n")
                if connection.recv(1):
                    return
        except OSError:
            if time.monotonic() > until_s:
                raise
        time.sleep(_POLL_S)
