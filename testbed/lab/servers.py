"""Servers' programs on their machines: written, started, and waited for until they answer.

Lives here: a file and a command a kind. Never here: machines (`machine`), the text of Apache's
configuration (`apache`).
"""

from __future__ import annotations

import http.client
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import testbed
from testbed.lab import apache, pages
from testbed.lab.driver import LabError
from testbed.lab.machine import NamespaceMachine, NamespaceServer

_READY_S = 30.0
_POLL_S = 0.05
_ANSWER_S = 5.0
_LOG = "server.log"
# Apache's scoreboard is POSIX shared memory under a name of its library's own making. In a /dev/shm
# of its own it is the only file, and it goes with the lab however Apache ends.
_WITH_SHARED = 'mount --bind "$1" /dev/shm; shift; exec "$@"'


@dataclass(frozen=True)
class EmbeddedServer(NamespaceServer):
    """One that acts as if: its share of a core is a number in its program, not a quota."""

    def set_cores(self, cores: float | None) -> None:
        """From now on it works as fast as `cores` cores; None: as one."""
        speed = 1.0 if cores is None else cores
        self.call(lambda: _ask(self, "POST", f"/control?speed={speed}"))


def start(machine: NamespaceServer, site: Path, environment: Mapping[str, str]) -> None:
    """Start the server's program, at its quota. Raises LabError where it does not start.

    site: the pages of all Apache servers. environment: what their PHP sees of the wiki.
    """
    if isinstance(machine, EmbeddedServer):
        _start_embedded(machine)
        return
    module = apache.php_module()
    assert module is not None
    shutil.chown(machine.folder, apache.USER, apache.USER)
    configuration = machine.folder / "httpd.conf"
    configuration.write_text(
        apache.configuration(machine.server, machine.folder, site, module, environment)
    )
    (machine.folder / "php.ini").write_text(apache.php_settings(machine.folder))
    shared = machine.folder / apache.SHARED
    shared.mkdir()
    apache2 = ["apache2", "-f", str(configuration), "-k", "start"]
    # Loading takes CPU time that under its quota would be seconds.
    machine.run(["unshare", "--mount", "sh", "-ec", _WITH_SHARED, "sh", str(shared), *apache2])
    machine.set_cores(machine.server.cores)


def _start_embedded(machine: EmbeddedServer) -> None:
    root = str(Path(testbed.__file__).parents[1])
    server = machine.server
    argv = [sys.executable, "-m", "testbed", "server", "--listen", f"0.0.0.0:{machine.port}"]
    argv += ["--cpus", "1", "--speed", str(server.cores)]
    argv += ["--in-service", str(server.workers), "--backlog", str(server.backlog)]
    machine.start(argv, machine.folder / _LOG, env={**os.environ, "PYTHONPATH": root})


def wait(client: NamespaceMachine, servers: Mapping[str, NamespaceServer]) -> None:
    """Until each has answered a request from the client. Raises LabError for one that does not."""

    def work() -> None:
        until_s = time.monotonic() + _READY_S
        for server in servers.values():
            while True:
                try:
                    _ask_alive(server)
                    break
                except OSError as error:
                    if time.monotonic() > until_s:
                        raise LabError(f"{server.name} does not answer: {error}") from error
                time.sleep(_POLL_S)

    client.call(work)


def answer(client: NamespaceMachine, servers: Mapping[str, NamespaceServer]) -> bool:
    """Whether each answers one request from the client now."""

    def work() -> bool:
        try:
            for server in servers.values():
                _ask_alive(server)
        except (OSError, http.client.HTTPException, LabError):
            return False
        return True

    return client.call(work)


def _ask_alive(server: NamespaceServer) -> None:
    _ask(server, "GET", "/?work_us=0" if _acts(server) else f"/{pages.ALIVE}")


def _acts(server: NamespaceServer) -> bool:
    return server.server.kind == "embedded"


def _ask(server: NamespaceServer, method: str, target: str) -> None:
    connection = http.client.HTTPConnection(server.address, server.port, timeout=_ANSWER_S)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise LabError(f"{server.name}: {method} {target} gives {answer.status}")
    finally:
        connection.close()
