"""Runs a compose file's services as processes: `python deploy_compose.py SERVICES.json SECONDS`.

Lives here: what a container engine would do with these services that bears on them: their names,
files, entry points and commands, a read-only root, no capabilities, one /dev/shm. Never here: what
is asserted; the last line of the output is what was seen, as JSON.

It is to be started in mount, PID and network namespaces of its own, and changes the first two for
good. All services share this network, each name is 127.0.0.1; so they must not share ports.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = "http://127.0.0.1:9090"
NO_CAPABILITIES = "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs --".split()


def sh(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True)


def prepare(services: dict[str, Any]) -> None:
    """Names, files and memory, then nothing can be written any more."""
    scratch = "/mnt"
    sh(f"ip link set lo up; mount -t tmpfs tmpfs {scratch}")
    for at in ("etc", "var/lib"):
        up = f"{scratch}/{at}"
        sh(
            f"mkdir -p {up}/upper {up}/work; mount -t overlay overlay /{at} "
            f"-o lowerdir=/{at},upperdir={up}/upper,workdir={up}/work"
        )
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost {' '.join(services)}\n")
    for service in services.values():
        for volume in service.get("volumes", []):
            source, target = shlex.quote(volume["source"]), shlex.quote(volume["target"])
            sh(f"rm -rf {target}; mkdir -p $(dirname {target}); cp -r {source} {target}")
    sh("mkdir -p /var/lib/lbd; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /tmp")
    # What else is there to be written is the services' own, in memory.
    sh("mount -t tmpfs tmpfs /run")
    for service in services.values():
        for entry in service.get("tmpfs", []):
            sh(f"mkdir -p {shlex.quote(entry.partition(':')[0])}")
    sh("mount -o remount,ro /run; mount -t tmpfs tmpfs /run/lbd")
    sh("mount -o remount,bind,ro /; mount -o remount,bind,ro /etc")


def images() -> dict[str, list[str]]:
    """Entry point and command by the target of the Dockerfile."""
    found: dict[str, list[str]] = {}
    target = ""
    for line in (ROOT / "deploy/containers/Dockerfile").read_text().splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            target = rest.split()[-1]
        elif word in ("ENTRYPOINT", "CMD"):
            found[target] = found.get(target, []) + json.loads(rest)
    return found


def start(service: dict[str, Any], environ: dict[str, str]) -> None:
    default = images()[service["build"]["target"]]
    entry, command = service.get("entrypoint"), service.get("command")
    argv = default if entry is None else [*entry, *(command or [])]
    # The images have these on their path; here they are this Python's.
    programs = {"lbd": "lbd", "lbd-agent": "agent"}
    if argv[0] in programs:
        argv = [sys.executable, "-m", programs[argv[0]], *argv[1:]]
    elif argv[0] == "python":
        argv = [sys.executable, *argv[1:]]
    subprocess.Popen([*NO_CAPABILITIES, *argv], env=environ, stdin=subprocess.DEVNULL)


def lbctl(environ: dict[str, str]) -> Any:
    """What `docker exec lbd lbctl status` would say, without rights that it has not."""
    done = subprocess.run(
        [*NO_CAPABILITIES, sys.executable, "-m", "lbctl", "--json", "status"],
        env=environ,
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    return json.loads(done.stdout)


def fetch(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def query(expression: str) -> list[Any]:
    asked = urllib.parse.urlencode({"query": expression})
    text = fetch(f"{PROMETHEUS}/api/v1/query?{asked}")
    found: list[Any] = json.loads(text)["data"]["result"] if text else []
    return found


def main(path: str, seconds: str) -> None:
    services = json.loads(Path(path).read_text())
    prepare(services)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("slow", "medium", "fast", "lbd", "agent"):
        start(services[name], environ)
    deadline_s = time.monotonic() + 60
    while fetch("http://127.0.0.1:9100/ready") != "ready\n" and time.monotonic() < deadline_s:
        time.sleep(0.1)
    start(services["load"], environ)
    subprocess.Popen(
        ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/tmp"],
        stderr=subprocess.DEVNULL,
    )
    deadline_s = time.monotonic() + float(seconds)
    while time.monotonic() < deadline_s:
        time.sleep(1)
        if query("lbd_agent_weights_in_force") and query("sum(lbd_server_sessions_total) > 1000"):
            break
    rules = json.loads(fetch(f"{PROMETHEUS}/api/v1/rules") or "{}")
    print()
    print(
        json.dumps(
            {
                "ready": fetch("http://127.0.0.1:9100/ready"),
                "page": "<title>lbd</title>" in fetch("http://127.0.0.1:9100/"),
                "status": lbctl(environ),
                "up": query('up{job="lbd"}'),
                "in_force": query("lbd_agent_weights_in_force"),
                "flows": query("lbd_server_sessions_total"),
                "errors": query("sum(lbd_server_connection_errors_total)"),
                "rules": [r["name"] for g in rules["data"]["groups"] for r in g["rules"]],
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
