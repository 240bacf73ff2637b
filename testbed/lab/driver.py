"""What every way to run a topology offers to those who use it.

Lives here: the protocols of a driver, a lab, its machines, and their errors.
Never here: how any of it is done (`namespaces`, `loopback`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from testbed.lab.topology import Topology


class LabError(Exception):
    """A lab cannot be made, found or removed; the message says what is in the way."""


class Machine(Protocol):
    """One machine of a running lab. `folder` is its own, and goes with the lab."""

    @property
    def name(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def folder(self) -> Path: ...

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` on the machine; options are those of `subprocess.Popen`.

        The process has the machine's network and its share of the CPU, and ends with the lab.
        """

    def cpu_ns(self) -> int:
        """CPU time so far of all that ever ran on the machine, ns."""

    def set_cores(self, cores: float | None) -> None:
        """From now on at most `cores` CPU time over wall time; None: no limit."""


class ServerMachine(Machine, Protocol):
    """A server: it listens on `port` of its address, and of the service's."""

    @property
    def port(self) -> int: ...

    def scoreboard(self) -> Path:
        """Apache's scoreboard: a file, mapped by its workers, that holds their states.

        Raises LabError where the server is no Apache.
        """


class Lab(Protocol):
    """A running topology. `vip`:`port` is the service's address behind the edge router."""

    @property
    def topology(self) -> Topology: ...
    @property
    def vip(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def client(self) -> Machine: ...
    @property
    def balancers(self) -> Sequence[Machine]: ...
    @property
    def servers(self) -> Mapping[str, ServerMachine]: ...
    @property
    def database(self) -> Machine | None: ...

    def route(self, machines: Sequence[Machine], weights: Sequence[int] | None = None) -> None:
        """Have the edge router spread connections to the service over `machines`.

        It hashes addresses and ports, in proportion to `weights` (1 to 255; None: equal). At first
        it does so over the balancers. Servers can be named too: they own the service's address,
        and their answers go straight back.
        """


class Driver(Protocol):
    """A way to run topologies, by their names."""

    def up(self, topology: Topology) -> Lab:
        """Bring the topology up, wait until its servers answer. Already up: that one.

        Raises LabError, after removing what had been made.
        """

    def down(self, name: str) -> bool:
        """Remove the lab and all that runs in it; whether there was anything of it."""
