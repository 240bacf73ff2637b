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
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from testbed.processes import Child, Children, cpu_ns_in_session, free_ports

ROUNDS = 7
SECONDS = 2
BIG_BYTES = 10_000_000
NEEDED = ("haproxy", "nginx", "wrk")


class Case(NamedTuple):
    """One kind of load: wrk's path and flags."""

    name: str
    path: str
    flags: Sequence[str]


class Balancer(NamedTuple):
    """One that runs, and where it listens."""

    child: Child
    port: int


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
        server, port = free_ports(2)
        start_server(Path(folder), children, server)
        balancers = {
            "haproxy": _start_haproxy(Path(folder), children, server, port),
            "lbd": start_lbd(Path(folder), children, server),
        }
        return [_compare(case, balancers) for case in CASES]


def _compare(case: Case, balancers: dict[str, Balancer]) -> dict[str, Any]:
    cpu_us, errors = interleaved(case, balancers, ROUNDS)
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


def interleaved(
    case: Case, balancers: Mapping[str, Balancer], rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Microseconds of CPU a request, by balancer and round; and how many requests failed."""
    cpu_us: dict[str, list[float]] = {name: [] for name in balancers}
    errors = 0
    for one in balancers.values():
        wrk(one.port, case)  # caches, connections, branch predictors
    for number in range(rounds):
        # Who comes first has the server's caches as another left them: in turn.
        for name in list(balancers)[:: 1 if number % 2 else -1]:
            one = balancers[name]
            before_ns = cpu_ns_in_session(one.child)
            requests, failed = wrk(one.port, case)
            spent_ns = cpu_ns_in_session(one.child) - before_ns
            cpu_us[name].append(spent_ns / max(requests, 1) * 1e-3)
            errors += failed
    return cpu_us, errors


def wrk(port: int, case: Case) -> tuple[int, int]:
    """Requests answered, and socket errors."""
    argv = ["wrk", "-t1", f"-d{SECONDS}s", *case.flags, f"http://127.0.0.1:{port}{case.path}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"(\d+) requests in", said)
    errors = re.search(r"Socket errors: (.*)", said)
    failed = sum(map(int, re.findall(r"\d+", errors.group(1)))) if errors else 0
    return (int(found.group(1)) if found else 0), failed


def start_server(folder: Path, children: Children, port: int) -> None:
    """nginx, on `port`."""
    (folder / "big").write_bytes(bytes(BIG_BYTES))
    (folder / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off; master_process off;
pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {folder};
    location = / {{ return 200 "hello\\n"; }} location = /big {{ }} }} }}
"""
    )
    children.start("nginx", ["nginx", "-c", str(folder / "nginx.conf")])


def _start_haproxy(folder: Path, children: Children, server: int, port: int) -> Balancer:
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
  bind 127.0.0.1:{port} backlog 4096
  server s 127.0.0.1:{server}
"""
    )
    argv = ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]
    return Balancer(children.start("haproxy", argv), port)


def start_lbd(folder: Path, children: Children, server: int, tree: Path | None = None) -> Balancer:
    """tree: another checkout whose balancer it is."""
    (port,) = free_ports(1)
    config = folder / f"lbd-{port}.yaml"
    config.write_text(
        f"""workers: 1
services:
  - name: bench-{port}
    listen: "127.0.0.1:{port}"
    policy: sed
    backends: [{{name: s, address: "127.0.0.1:{server}"}}]
"""
    )
    argv = [sys.executable, "-m", "lbd", "--config", str(config)]
    # Otherwise the folder that all this is started from would come first, for its workers too.
    env = None if tree is None else {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    child = children.start("lbd", argv, env=env)
    child.wait_line("ready", 60.0)
    return Balancer(child, port)
