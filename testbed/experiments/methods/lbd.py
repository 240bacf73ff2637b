"""lbd in a balancer's place: with a policy, with the agent, or with AWCMP's prober as its agent.

Lives here: its configuration and its processes. Never here: other programs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from testbed.experiments.methods import learned, needs_sensors
from testbed.experiments.place import READY_S, Backend, Place, Standing
from testbed.processes import Children

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_PROBES_HZ = 4.0


def start(name: str, place: Place, backends: Sequence[Backend], children: Children) -> Standing:
    """The daemon, and who gives it weights."""
    config = place.folder / f"{place.tag}.yaml"
    config.write_text(yaml.safe_dump(configuration(name, place, backends), sort_keys=False))
    argv = [sys.executable, "-m", "lbd", "--config", str(config)]
    daemon = children.start(f"lbd {place.tag}", argv, env=_ONE_THREAD, popen=place.popen)
    children_here, lines = [daemon], ["ready"]
    argv = _giver(name, config, place, backends)
    if argv:
        giver = children.start(f"{name} {place.tag}", argv, env=_ONE_THREAD, popen=place.popen)
        children_here.append(giver)
        lines.append("attached")

    def wait() -> None:
        for child, line in zip(children_here, lines, strict=True):
            child.wait_line(line, READY_S)

    return Standing(children_here, wait, place.tag)


def _giver(name: str, config: Path, place: Place, backends: Sequence[Backend]) -> list[str]:
    """Who writes weights, as a command; empty for nobody."""
    if learned(name):
        return [sys.executable, "-m", "agent", "--config", str(config)]
    if not needs_sensors(name):
        return []
    period_s = 1.0 / float(name.partition(":")[2] or _PROBES_HZ)
    argv = [sys.executable, "-m", "testbed.experiments.awcmp", place.tag, str(period_s)]
    for backend in backends:
        assert backend.sensor is not None
        argv.append(f"{backend.name}={backend.sensor[0]}:{backend.sensor[1]}")
    return argv


def configuration(name: str, place: Place, backends: Sequence[Backend]) -> dict[str, Any]:
    """lbd's configuration file."""
    plain, _, parameter = name.partition(":")
    told = plain in ("agent", "awcmp")
    policy = {"agent": "sed", "awcmp": "wcmp"}.get(plain, plain)
    return {
        "workers": 1,
        "services": [
            {
                "name": place.tag,
                "listen": f"{place.host}:{place.port}",
                "policy": policy,
                "weights": "agent" if told else "static",
                **({"fallback": "wcmp"} if plain == "awcmp" else {}),
                "backends": [
                    {
                        "name": backend.name,
                        "address": f"{backend.host}:{backend.port}",
                        # The agent gets no hint.
                        "weight": 1.0 if plain == "agent" else float(backend.weight),
                    }
                    for backend in backends
                ],
            }
        ],
        "agent": {
            "mode": "frozen",
            **(
                {"checkpoint": str(Path(parameter).absolute())}
                if learned(name) and parameter
                else {}
            ),
        },
    }
