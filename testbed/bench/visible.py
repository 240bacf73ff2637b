"""How soon kill -9 of a worker and of the agent shows: metrics, log, `lbctl status`, status page.

Lives here: the measurement, as seen from outside the daemon, under load. Time counts from the
signal. What has to show, besides a line of the log each: of a worker, a restart counted; of the
agent, that it has gone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from lbctl.client import Client
from testbed.processes import Child, Children, free_ports

REPETITIONS: Final = 5
DEADLINE_S: Final = 60.0
LOOK_S: Final = 0.02
RATE_PER_S: Final = "40"


class Site:
    """A daemon with all that can be looked at, its agent, a backend, and load."""

    def __init__(self, folder: Path, children: Children) -> None:
        listen, metrics, server = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.metrics = metrics
        self.client = Client(f"{folder}/api.sock")
        self.log = folder / "log"
        self._children = children
        self._config = folder / "lbd.yaml"
        config = {
            "workers": 2,
            "metrics": metrics,
            "status_page": True,
            "api": {"listen": f"unix:{self.client.path}"},
            "log": {"file": str(self.log)},
            "agent": {"mode": "frozen"},
            "services": [
                {
                    "name": f"bench-{os.getpid()}",
                    "listen": listen,
                    "policy": "sed",
                    "weights": "agent",
                    "backends": [{"name": "s", "address": server}],
                }
            ],
        }
        self._config.write_text(yaml.safe_dump(config))
        self._start("testbed", "server", "--listen", server)
        self._start("lbd", "--config", str(self._config))
        until(lambda: self.log.exists() and "ready:" in self.log.read_text())
        self.agent = self.start_agent()
        self.events: list[str] = []
        threading.Thread(target=self._follow, daemon=True).start()
        self._start(
            *("testbed", "load", "--target", listen, "--rate", RATE_PER_S, "--duration", "600")
        )

    def _start(self, module: str, *arguments: str) -> Child:
        return self._children.start(module, [sys.executable, "-m", module, *arguments])

    def start_agent(self) -> Child:
        """Returns once its weights are in force in all workers."""
        self.agent = self._start("agent", "--config", str(self._config))
        until(lambda: self.service()["agent"]["weights_in_force"] == 2)
        return self.agent

    def _follow(self) -> None:
        """The status page's stream, until the daemon ends."""
        with urllib.request.urlopen(f"http://{self.metrics}/stream", timeout=DEADLINE_S) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    told = json.loads(line[6:])["events"]
                    self.events += [event["text"] for event in told]

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=DEADLINE_S) as answer:
            return str(answer.read(), "utf-8")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.ask("GET", "status")
        return found

    def service(self) -> dict[str, Any]:
        (found,) = self.status()["services"]
        return dict(found)


def run() -> list[dict[str, Any]]:
    """One row a victim: seconds until it shows, the largest of REPETITIONS."""
    with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
        site = Site(Path(folder), children)
        rows = []
        for name, kill in (("worker", _kill_worker), ("agent", _kill_agent)):
            found = [kill(site) for _ in range(REPETITIONS)]
            row: dict[str, Any] = {"killed": name}
            for where in found[0]:
                row[f"{where}_s_median"] = statistics.median(one[where] for one in found)
                row[f"{where}_s_max"] = max(one[where] for one in found)
            rows.append(row)
        return rows


def _kill_worker(site: Site) -> dict[str, float]:
    before = site.status()
    restarts = before["worker_restarts_total"]
    pid = before["workers"][0]["pid"]
    logged, told = len(site.log.read_text()), len(site.events)
    seen = _seen(
        lambda: os.kill(pid, signal.SIGKILL),
        {
            "metrics": lambda: f"lbd_worker_restarts_total {restarts + 1}\n" in site.scrape(),
            "log": lambda: str(pid) in site.log.read_text()[logged:],
            "status": lambda: site.status()["worker_restarts_total"] > restarts,
            "page": lambda: any("started again" in text for text in site.events[told:]),
        },
    )
    until(lambda: all(w["pid"] not in (None, pid) for w in site.status()["workers"]))
    until(lambda: site.service()["agent"]["weights_in_force"] == 2)
    return seen


def _kill_agent(site: Site) -> dict[str, float]:
    logged, told = len(site.log.read_text()), len(site.events)
    seen = _seen(
        lambda: site.agent.send_signal(signal.SIGKILL),
        {
            "metrics": lambda: bool(re.search(r"^lbd_agent_up\{.*\} 0$", site.scrape(), re.M)),
            "log": lambda: "no fresh weights" in site.log.read_text()[logged:],
            "status": lambda: not site.service()["agent"]["up"],
            "page": lambda: any("the agent has gone" in text for text in site.events[told:]),
        },
    )
    site.agent.stop()
    site.start_agent()
    # The page looks once a second: what comes and goes between two looks it never tells.
    until(lambda: any("the agent has come" in text for text in site.events[told:]))
    return seen


def _seen(kill: Callable[[], object], looks: dict[str, Callable[[], bool]]) -> dict[str, float]:
    """Seconds from `kill` until each look finds it; one thread a look, so that none waits."""
    found: dict[str, float] = {}

    def watch(name: str, look: Callable[[], bool]) -> None:
        until(look)
        found[name] = time.monotonic() - start_s

    threads = [threading.Thread(target=watch, args=pair, daemon=True) for pair in looks.items()]
    start_s = time.monotonic()
    kill()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    missing = looks.keys() - found.keys()
    if missing:
        raise TimeoutError(f"not within {DEADLINE_S:g} s: {', '.join(missing)}")
    return {name: found[name] for name in looks}


def until(look: Callable[[], bool]) -> None:
    """Raises TimeoutError."""
    end_s = time.monotonic() + DEADLINE_S
    while not look():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not within {DEADLINE_S:g} s")
        time.sleep(LOOK_S)
