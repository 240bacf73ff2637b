"""A topology as containers: a compose file, the image's Dockerfile, the folder they share.

Lives here: how containers surround guests. Never here: what a guest does (`guest`), a container
engine: `docker compose up` in the folder is the operator's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from testbed.lab import cgroup, guest, wiki
from testbed.lab.guest import Guest
from testbed.lab.packages import names
from testbed.lab.plan import Plan
from testbed.lab.topology import Topology

_ROOT = Path(__file__).resolve().parents[2]
_FOREVER = "sleep infinity"

_DOCKERFILE = """\
FROM debian:bookworm-slim
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \\
        {packages} \\
    && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python3 -m venv /opt/lbd \\
    && /opt/lbd/bin/pip install --no-cache-dir -c /source/constraints.txt '/source[agent,testbed]'
ENV PATH=/opt/lbd/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
"""


def render(folder: Path, topology: Topology, plan: Plan, cache: Path = wiki.CACHE) -> None:
    """Write `compose.yaml`, `Dockerfile` and `share/` into the folder, which must be empty.

    Raises FileExistsError where something of that is there.
    """
    (folder / "share").mkdir(parents=True)
    guest.write_share(folder / "share", topology, plan, cache)
    packages = " \\\n        ".join(names())
    dockerfile = folder.absolute() / "Dockerfile"
    dockerfile.write_text(_DOCKERFILE.format(packages=packages))
    (folder / "compose.yaml").write_text(
        yaml.safe_dump(document(topology, plan, dockerfile), sort_keys=False)
    )


def document(topology: Topology, plan: Plan, dockerfile: Path) -> dict[str, Any]:
    """The compose file, as data. dockerfile: the image's, built from this repository."""
    machines = guest.guests(topology, plan)
    before = {"client": [node.name for node in (*plan.balancers, *plan.servers)]}
    before |= {node.name: ["database"] for node in plan.servers if plan.database is not None}
    return {
        "name": f"lbd-{topology.name}",
        "services": {
            machine.name: _service(topology, machine, before.get(machine.name, []), dockerfile)
            for machine in machines
        },
        "networks": {
            name: {
                "ipam": {
                    # The engine's own bridge has an address there too: not the router's.
                    "config": [{"subnet": str(net), "gateway": str(net[-2])}]
                }
            }
            for name, net in ((guest.FRONT, plan.front), (guest.BACK, plan.back))
        },
    }


def _service(
    topology: Topology, machine: Guest, after: list[str], dockerfile: Path
) -> dict[str, Any]:
    *behind, last = machine.programs or (_FOREVER,)
    script = [*machine.commands, *(f"{program} &" for program in behind), f"exec {last}"]
    service: dict[str, Any] = {
        "image": f"lbd-lab-{topology.name}",
        "build": {"context": str(_ROOT), "dockerfile": str(dockerfile)},
        "init": True,
        "cap_add": ["NET_ADMIN"],
        "entrypoint": ["sh", "-ec"],
        # A dollar sign would be compose's own.
        "command": ["\n".join(script).replace("$", "$$")],
        "networks": {
            name: {"ipv4_address": str(interface.ip)} for name, interface in machine.links.items()
        },
        "sysctls": {name: str(value) for name, value in machine.settings.items()},
        "volumes": [f"./share:{guest.SHARE}:ro"],
        "ulimits": {"nofile": {"soft": 65_536, "hard": 65_536}},
    }
    if machine.cores is not None:
        quota_us, period_us = cgroup.quota(machine.cores)
        service |= {"cpu_quota": quota_us, "cpu_period": period_us}
    if after:
        service["depends_on"] = after
    return service
