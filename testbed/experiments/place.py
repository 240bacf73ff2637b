"""The place of a balancer: the machine that it runs on, where it listens, what is behind it.

Lives here: the records, and waiting until somebody listens. Never here: who stands there.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed.processes import Child, ChildError, Popen

READY_S = 60.0
_POLL_S = 0.02
_LISTEN = "0A"


@dataclass(frozen=True)
class Backend:
    """A server as balancers know it. weight: its provisioned share of a core, configured.

    sensor: where it tells how busy it is (`sensor`), host and port; None where nobody asks.
    """

    name: str
    host: str
    port: int
    weight: float
    sensor: tuple[str, int] | None = None


@dataclass(frozen=True)
class Place:
    """One balancer's. tag: unique among all that run on this host, fit for a file's name."""

    tag: str
    popen: Popen
    host: str
    port: int
    folder: Path


@dataclass(frozen=True)
class Standing:
    """What was started in a place. region: of its shared memory, None where it is none of ours.

    wait: returns when it listens, raises ChildError otherwise. It is called when all places have
    been started, so that they come up together.
    """

    children: Sequence[Child]
    wait: Callable[[], None]
    region: str | None = None

    def cpu_s(self) -> float:
        """CPU seconds of all of it so far."""
        return sum(child.cpu_s() for child in self.children)


def whole_weights(backends: Sequence[Backend], largest: int = 100) -> dict[str, int]:
    """Weights as whole numbers from 1 to `largest`, in proportion as far as that goes."""
    top = max(backend.weight for backend in backends)
    return {b.name: max(1, round(b.weight / top * largest)) for b in backends}


def until_listening(child: Child, host: str, port: int) -> None:
    """Wait until somebody listens there in the child's network, without connecting there.

    A connection would be a flow to a server. Raises ChildError if the child ends or takes too long.
    """
    until_s = time.monotonic() + READY_S
    while (host, port) not in _listening(child.pid):
        if not child.running() or time.monotonic() > until_s:
            said = "\n".join(child.output())
            raise ChildError(f"{child.name} does not listen on {host}:{port}; it said:\n{said}")
        time.sleep(_POLL_S)


def _listening(pid: int) -> set[tuple[str, int]]:
    """proc_net(5): every process sees the sockets of its own network namespace."""
    try:
        lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return set()
    rows = (line.split() for line in lines)
    ends = (row[1].partition(":") for row in rows if row[3] == _LISTEN)
    return {(socket.inet_ntoa(struct.pack("=I", int(h, 16))), int(p, 16)) for h, _, p in ends}
