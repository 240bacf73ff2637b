"""A lab without root: servers that act as if, all over loopback.

Lives here: processes of `testbed.server` in the place of machines, each as fast as its share of a
core says. Never here: real servers (`namespaces`). A balancer listens on an address of its own
below 127.0.1.0, and clients spread over these as the edge router would spread them.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from testbed.experiments.sites import ITERATIONS_PER_S
from testbed.lab.topology import Server, Topology
from testbed.processes import Child, Children, free_ports

T = TypeVar("T")

READY_S = 20.0


class Machine:
    """A place for processes on this host; its CPU is not held apart from others'."""

    def __init__(self, name: str, address: str, port: int = 0) -> None:
        self.name = name
        self.address = address
        self.port = port

    def popen(self, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[str]:
        """As `subprocess.Popen`."""
        return subprocess.Popen(argv, **kwargs)

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises: every machine has this network."""
        return work()


class EmbeddedServer(Machine):
    """A process with a discipline in place of CPUs."""

    def __init__(self, spec: Server, children: Children) -> None:
        super().__init__(spec.name, "127.0.0.1")
        self.spec = spec
        argv = [sys.executable, "-m", "testbed", "server", "--speed", repr(spec.cores)]
        argv += ["--in-service", str(spec.workers), "--backlog", str(spec.backlog)]
        argv += ["--iterations-per-s", repr(ITERATIONS_PER_S)]
        # As Apache, which answers a client that has ended its side.
        argv += ["--answer-half-closed"]
        self._child: Child = children.start(spec.name, argv)

    def wait(self) -> None:
        """Until it listens; raises ChildError."""
        found = re.search(r":(\d+)\b", self._child.wait_line("ready", READY_S))
        assert found is not None
        self.port = int(found.group(1))

    def cpu_ns(self) -> int:
        """What a core would have spent: the time at work times the share of a core."""
        return round(self.stats()["busy_cpu_s"] * 1e9 * self.spec.cores)

    def set_cores(self, share: float | None) -> None:
        """How much of a core it has from now on; None: a whole one."""
        self._ask("POST", f"/control?speed={1.0 if share is None else share!r}")

    def spent_s(self) -> float:
        """CPU seconds of its process: what acting as if costs this host."""
        return self._child.cpu_s()

    def stats(self) -> dict[str, Any]:
        """Its own counts, see `testbed.server.backend.Backend.stats`."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/stats"))
        return found

    def _ask(self, method: str, target: str) -> bytes:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=READY_S)
        try:
            connection.request(method, target)
            return connection.getresponse().read()
        finally:
            connection.close()


class LoopbackLab:
    """A topology over loopback; a context manager that ends its servers.

    Raises ChildError where one does not come up; the others are ended then.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.client = Machine("client", "127.0.0.1")
        ports = free_ports(topology.balancers.count)
        self.balancers = [
            Machine(f"lb{number + 1}", f"127.0.1.{number + 1}", port)
            for number, port in enumerate(ports)
        ]
        self.servers: dict[str, EmbeddedServer] = {}
        self._children = Children()

    @property
    def entries(self) -> list[tuple[str, int]]:
        """Where clients connect: each connection to one of these."""
        return [(machine.address, machine.port) for machine in self.balancers]

    def reset(self) -> None:
        """As it came up: every server at its share of a core."""
        for server in self.servers.values():
            server.set_cores(server.spec.cores)

    def cpu_s(self) -> float:
        """CPU seconds of all servers' processes so far; who balances or asks is not in it."""
        return sum(server.spent_s() for server in self.servers.values())

    def __enter__(self) -> LoopbackLab:
        self._children.__enter__()
        try:
            for spec in self.topology.servers:
                self.servers[spec.name] = EmbeddedServer(spec, self._children)
            for server in self.servers.values():
                server.wait()
        except BaseException:
            self._children.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._children.__exit__(kind, error, trace)
