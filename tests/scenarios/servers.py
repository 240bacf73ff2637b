"""Servers of known speed as processes of their own, and requests in an open loop.

Lives here: how they are started and sped up or slowed down. Never here: judgement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from urllib.request import Request, urlopen

import numpy as np

from testbed.load.arrivals import Plan, poisson
from testbed.processes import Child, Children

WORK_S = 0.02
"""Mean work of a request, in seconds of a CPU of speed 1; exponential."""


class Servers:
    """One CPU each, shared by the requests in service. Ends with `children`."""

    def __init__(self, speeds: Sequence[float], children: Children) -> None:
        self.speeds = list(speeds)
        argv = [sys.executable, "-m", "testbed", "server", "--in-service", "32"]
        started: list[Child] = [
            children.start(f"server {number}", [*argv, "--speed", str(speed)])
            for number, speed in enumerate(speeds)
        ]
        self.addresses = []
        for child in started:
            found = re.search(r":(\d+)\b", child.wait_line("ready", 60.0))
            assert found is not None
            self.addresses.append(f"127.0.0.1:{found[1]}")

    def set_speed(self, number: int, speed: float) -> None:
        url = f"http://{self.addresses[number]}/control?speed={speed}"
        with urlopen(Request(url, method="POST"), timeout=60):
            pass

    @property
    def capacity_per_s(self) -> float:
        """Requests a second that all of them do together."""
        return sum(self.speeds) / WORK_S


def steps(rates_per_s: Sequence[float], step_s: float, seed: int) -> Plan:
    """Poisson arrivals at one rate after the other, `step_s` seconds each."""
    parts = [
        poisson(rate_per_s=rate, duration_s=step_s, seed=seed + at, mean_s=WORK_S)
        for at, rate in enumerate(rates_per_s)
    ]
    planned_s = np.concatenate([part.planned_s + at * step_s for at, part in enumerate(parts)])
    queries = [query for part in parts for query in part.queries]
    return Plan(planned_s, queries, step_s * len(parts))
