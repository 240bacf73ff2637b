"""CPU of the data plane against HAProxy: new connections, keep-alive requests, 10 MB transfers.

Lives here: the measurement. Both stand before the same nginx on loopback, one process each without
the other's help; wrk drives them in turn, interleaved, and what counts is the CPU time of all of a
balancer's processes by the kernel's account, over the requests that wrk saw answered. Where a
program is missing the row says so.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from testbed.processes import Child, Children, free_ports

ROUNDS = 7
SECONDS = 2
BIG_BYTES = 10_000_000
NEEDED = ("haproxy", "nginx", "wrk")


class Case(NamedTuple):
    """One kind of load: wrk's path and flags."""

    name: str
    path: str
    flags: Sequence[str]


CASES = (
    Case("new connections", "/", ("-c32", "-H", "Connection: close")),
    Case("keep-alive requests", "/", ("-c32",)),
    Case("10 MB transfers", "/big", ("-c4",)),
)


def run() -> list[dict[str, Any]]:
    """One row a case: microseconds of CPU a request of each, medians of ROUNDS, and their ratio.

    `ratio_low` and `ratio_high` are the extremes over the rounds, pair by pair.
    """
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        note = f"not measured: {', '.join(missing)} not installed (Debian packages of these names)"
        return [{"case": case.name, "note": note} for case in CASES]
    with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
        balancers, ports = _start(Path(folder), children)
        return [_measure(case, balancers, ports) for case in CASES]


def _measure(case: Case, balancers: dict[str, Child], ports: dict[str, int]) -> dict[str, Any]:
    cpu_us: dict[str, list[float]] = {name: [] for name in balancers}
    errors = 0
    for name in balancers:
        _wrk(ports[name], case)  # caches, connections, branch predictors
    for _ in range(ROUNDS):
        for name, child in balancers.items():
            before_s = child.cpu_s()
            requests, failed = _wrk(ports[name], case)
            cpu_us[name].append((child.cpu_s() - before_s) / max(requests, 1) * 1e6)
            errors += failed
    ratios = [a / b for a, b in zip(cpu_us["lbd"], cpu_us["haproxy"], strict=True)]
    return {
        "case": case.name,
        "lbd_us": statistics.median(cpu_us["lbd"]),
        "haproxy_us": statistics.median(cpu_us["haproxy"]),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "errors": errors,
    }


def _wrk(port: int, case: Case) -> tuple[int, int]:
    """Requests answered, and socket errors."""
    argv = ["wrk", "-t1", f"-d{SECONDS}s", *case.flags, f"http://127.0.0.1:{port}{case.path}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"(\d+) requests in", said)
    errors = re.search(r"Socket errors: (.*)", said)
    failed = sum(map(int, re.findall(r"\d+", errors.group(1)))) if errors else 0
    return (int(found.group(1)) if found else 0), failed


def _start(folder: Path, children: Children) -> tuple[dict[str, Child], dict[str, int]]:
    server, haproxy, lbd = free_ports(3)
    (folder / "big").write_bytes(bytes(BIG_BYTES))
    (folder / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off; master_process off;
pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{server} backlog=4096; root {folder};
    location = / {{ return 200 "hello\\n"; }} location = /big {{ }} }} }}
"""
    )
    (folder / "haproxy.cfg").write_text(
        f"""global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen bench
  bind 127.0.0.1:{haproxy} backlog 4096
  server s 127.0.0.1:{server}
"""
    )
    (folder / "lbd.yaml").write_text(
        f"""workers: 1
services:
  - name: bench-{lbd}
    listen: "127.0.0.1:{lbd}"
    policy: sed
    backends: [{{name: s, address: "127.0.0.1:{server}"}}]
"""
    )
    children.start("nginx", ["nginx", "-c", str(folder / "nginx.conf")])
    balancers = {
        "haproxy": children.start("haproxy", ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]),
        "lbd": children.start(
            "lbd", [sys.executable, "-m", "lbd", "--config", str(folder / "lbd.yaml")]
        ),
    }
    balancers["lbd"].wait_line("ready", 20.0)
    return balancers, {"haproxy": haproxy, "lbd": lbd}
