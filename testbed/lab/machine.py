"""A machine made of a network namespace and a control group.

Lives here: how a process gets into it. Never here: making and removing either (`namespaces`).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from testbed.lab import apache, network
from testbed.lab.cgroup import Group
from testbed.lab.driver import LabError
from testbed.lab.topology import Server

# The group comes first: ip-netns(8) would mount another /sys over the groups, nsenter(1) does not.
_ENTER = """\
set -e
network=$1
shift
while [ "$1" != -- ]; do
    echo 0 > "$1"
    shift
done
shift
exec nsenter --net="$network" -- "$@"
"""
_RUN_S = 120.0
T = TypeVar("T")


@dataclass(frozen=True)
class NamespaceMachine:
    """One machine; `namespace` is its name for ip-netns(8)."""

    name: str
    address: str
    namespace: str
    group: Group
    folder: Path

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on the machine; its process is the one started."""
        doors = [str(door) for door in self.group.doors]
        path = str(network.path_of(self.namespace))
        return ["sh", "-c", _ENTER, "sh", path, *doors, "--", *argv]

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` on the machine; options are those of `subprocess.Popen`."""
        return subprocess.Popen(self.inside(argv), **options)

    def run(self, argv: Sequence[str], **options: Any) -> str:
        """Run `argv` on the machine to its end; its output. Raises LabError where it fails."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.inside(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_RUN_S,
            **options,
        )
        if done.returncode:
            raise LabError(f"{self.name}: {argv[0]} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def start(self, argv: Sequence[str], log: Path, **options: Any) -> None:
        """Start `argv` on the machine as a daemon; it ends with the lab, not with this process."""
        with log.open("ab") as output:
            starter = self.popen(
                ["setsid", "--fork", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **options,
            )
        if starter.wait(_RUN_S):
            raise LabError(f"{self.name}: {argv[0]} does not start: {log.read_text()}")

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, called by a thread that is in the machine's network."""
        return network.inside(self.namespace, work)

    def cpu_ns(self) -> int:
        """CPU time so far of all that ever ran on the machine, ns."""
        return self.group.cpu_ns()

    def set_cores(self, cores: float | None) -> None:
        """From now on at most `cores` CPU time over wall time; None: no limit."""
        self.group.set_cores(cores)


@dataclass(frozen=True)
class NamespaceServer(NamespaceMachine):
    """A server among them."""

    server: Server
    port: int = apache.PORT

    def scoreboard(self) -> Path:
        """The file that Apache's workers share. Raises LabError where the server has none."""
        if self.server.kind != "apache":
            raise LabError(f"{self.name} is no Apache: it has no scoreboard")
        (found,) = (self.folder / apache.SHARED).iterdir()
        return found
