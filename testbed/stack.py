"""The whole system on loopback: backends of known speed, the balancer, its agent, as processes.

Lives here: which processes make a stack, their configuration file, how they start and end.
Never here: load, comparison, display.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import yaml

from shm.region import Region
from testbed.processes import Child, Children, free_ports

READY_S = 60.0
# One thread a process: the cores are shared by a dozen of them.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class ServiceSpec:
    """One service over all backends. `weights` by backend name; None configures 1 for each.

    memory_flows: of `ewma`; None leaves lbd's default.
    """

    name: str
    policy: str
    weights: Mapping[str, float] | None = None
    agent: bool = False
    memory_flows: int | None = None


@dataclass(frozen=True)
class StackSpec:
    """speeds: CPU speed by backend name, one CPU each. agent: keys of the agent's section."""

    speeds: Mapping[str, float]
    services: Sequence[ServiceSpec]
    workers: int = 2
    in_service: int = 32
    backlog: int = 1024
    agent: Mapping[str, Any] = field(default_factory=dict)


class Stack:
    """A context manager. Service names get a random suffix, so that stacks do not meet.

    Raises ChildError where a process does not come up; whatever had started is ended then.
    """

    def __init__(self, spec: StackSpec) -> None:
        self.spec = spec
        self._exit = contextlib.ExitStack()
        self._suffix = secrets.token_hex(3)
        self.children: Children
        self.backends: dict[str, Child] = {}
        self.backend_port: dict[str, int] = {}
        self.port: dict[str, int] = {}
        self.daemon: Child
        self.agent: Child | None = None
        self.config: Path

    def __enter__(self) -> Stack:
        with self._exit:
            folder = Path(self._exit.enter_context(TemporaryDirectory(prefix="lbd-")))
            self.config = folder / "lbd.yaml"
            self.children = self._exit.enter_context(Children())
            self._start_backends()
            ports = free_ports(len(self.spec.services))
            self.port = dict(zip((s.name for s in self.spec.services), ports, strict=True))
            self.config.write_text(yaml.safe_dump(self._configuration(), sort_keys=False))
            self.start_daemon()
            if any(service.agent for service in self.spec.services):
                self.start_agent()
            self._exit = self._exit.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.close()

    def region_name(self, service: str) -> str:
        """The service's name in the configuration, and its region's."""
        return f"{service}-{self._suffix}"

    def region(self, service: str) -> Region:
        """The service's live region."""
        return Region.attach(self.region_name(service))

    def start_daemon(self) -> None:
        """Also again, after it was ended."""
        self.daemon = self.children.start(
            "lbd", [sys.executable, "-m", "lbd", "--config", str(self.config)], env=_ONE_THREAD
        )
        self.daemon.wait_line("ready", READY_S)

    def start_agent(self) -> None:
        """Also again, after it was ended."""
        self.agent = self.children.start(
            "agent", [sys.executable, "-m", "agent", "--config", str(self.config)], env=_ONE_THREAD
        )
        self.agent.wait_line("attached", READY_S)

    def set_speed(self, backend: str, speed: float) -> None:
        """Change a backend's speed while it runs."""
        from urllib.request import Request, urlopen

        url = f"http://127.0.0.1:{self.backend_port[backend]}/control?speed={speed}"
        with urlopen(Request(url, method="POST"), timeout=60):
            pass

    def _start_backends(self) -> None:
        for name, speed in self.spec.speeds.items():
            argv = [sys.executable, "-m", "testbed", "server", "--speed", str(speed)]
            argv += ["--in-service", str(self.spec.in_service)]
            argv += ["--backlog", str(self.spec.backlog)]
            self.backends[name] = self.children.start(name, argv)
        for name, child in self.backends.items():
            line = child.wait_line("ready", READY_S)
            found = re.search(r":(\d+)\b", line)
            assert found is not None
            self.backend_port[name] = int(found.group(1))

    def _configuration(self) -> dict[str, Any]:
        return {
            "workers": self.spec.workers,
            "services": [self._service(service) for service in self.spec.services],
            "agent": dict(self.spec.agent),
        }

    def _service(self, service: ServiceSpec) -> dict[str, Any]:
        memory = service.memory_flows
        return {
            "name": self.region_name(service.name),
            "listen": f"127.0.0.1:{self.port[service.name]}",
            "policy": service.policy,
            "weights": "agent" if service.agent else "static",
            **({} if memory is None else {"ewma": {"memory_flows": memory}}),
            "backends": [
                {
                    "name": name,
                    "address": f"127.0.0.1:{self.backend_port[name]}",
                    "weight": float((service.weights or {}).get(name, 1.0)),
                }
                for name in self.spec.speeds
            ],
        }
