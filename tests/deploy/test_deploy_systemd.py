"""The units, as systemd itself reads, judges and runs them.

The slow part installs with `make install` and boots a systemd in namespaces (`deploy_machine`).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from deploy_machine import Machine

from testbed.processes import free_ports

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
EXPOSURE_MAX = 2.0
PYTHON = "/usr/local/lib/lbd/bin/python"


@pytest.mark.parametrize("unit", ["lbd.service", "lbd-agent.service"])
def test_the_sandbox_is_tight(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= EXPOSURE_MAX


def test_whatever_is_installed_by_name_is_there_and_a_file() -> None:
    """`install` ends with an error at the first folder, and the rest is not installed."""
    rules = re.findall(r"^\tinstall -D -m 644 (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert len(rules) >= 4
    for rule in rules:
        named = [word for word in rule.split() if not word.startswith(("-", "$"))]
        found = [path for word in named for path in ROOT.glob(word)]
        assert len(found) >= len(named)
        assert [path for path in found if not path.is_file()] == []


# -- a real systemd


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Installed with `make install`, booted, nothing started."""
    if os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists():
        pytest.skip("booting a systemd takes root, and a systemd")
    folder = tmp_path_factory.mktemp("machine")
    files, scratch, venv = folder / "files", folder / "scratch", folder / "venv"
    scratch.mkdir()
    # A copy without what `pip` would leave in the tree; a Python that ProtectHome= does not hide.
    source = folder / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "report", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run(
        [
            "make",
            "-C",
            str(source),
            "install",
            f"DESTDIR={files}",
            "PYTHON=/usr/bin/python3",
            "LEARN=1",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=900,
    )
    (files / "usr/local/lib/lbd").rename(venv)
    with Machine(files, ("usr/local/lib/lbd", venv), scratch) as booted:
        yield booted


class Echo(socketserver.StreamRequestHandler):
    """Names the backend, then sends back a line."""

    def handle(self) -> None:
        line = self.rfile.readline()
        self.wfile.write(b"%d " % self.server.server_address[1] + line)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 512


@pytest.fixture(scope="module")
def backends() -> Iterator[list[str]]:
    """Addresses of three echo servers."""
    servers = [EchoServer(("127.0.0.1", 0), Echo) for _ in range(3)]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [f"127.0.0.1:{server.server_address[1]}" for server in servers]


@dataclass
class Site:
    """The inner machine with a configuration for one test."""

    machine: Machine
    host: str
    port: int

    def ask(self) -> str:
        """One flow; which backend answered."""
        with socket.create_connection((self.host, self.port), 120) as sock:
            sock.sendall(b"hello\n")
            answer = b""
            while part := sock.recv(100):
                answer += part
        name, _, rest = answer.partition(b" ")
        assert rest == b"hello\n"
        return name.decode()

    def active(self, unit: str) -> str:
        return self.machine.show(unit, "ActiveState")

    def pid(self, unit: str) -> int:
        """As this side numbers it."""
        inside = int(self.machine.show(unit, "MainPID"))
        group = self.machine.show(unit, "ControlGroup")
        # Read from out here, the kernel gives this side's numbers.
        for pid in self.machine.path(f"/sys/fs/cgroup{group}/cgroup.procs").read_text().split():
            status = Path(f"/proc/{pid}/status").read_text()
            if re.search(rf"^NSpid:.*\t{inside}$", status, re.M):
                return int(pid)
        raise AssertionError(f"{unit} has no process {inside}")


def until(look: Callable[[], object], what: str, deadline_s: float = 180.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not look():
        assert time.monotonic() < end_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def site(machine: Machine, backends: list[str]) -> Iterator[Site]:
    """Configured on a port below 1024, not started; stopped and as before when the test ends."""
    yield from _site(machine, backends, "127.0.0.87", 87)


@pytest.fixture
def free_site(machine: Machine, backends: list[str]) -> Iterator[Site]:
    """The same on a port that systemd may be told to listen on."""
    yield from _site(machine, backends, "127.0.0.1", free_ports(1)[0])


def _site(machine: Machine, backends: list[str], host: str, port: int) -> Iterator[Site]:
    config = yaml.safe_load((ROOT / "deploy" / "lbd.yaml").read_text())
    config["metrics"] = f"127.0.0.1:{free_ports(1)[0]}"
    config["agent"] = {
        "mode": "learn",
        "base": "none",
        "save": "/var/lib/lbd",
        "interval_ms": 20,
    }
    config["services"][0]["listen"] = f"{host}:{port}"
    config["services"][0]["backends"] = [
        {"name": f"b{i}", "address": address} for i, address in enumerate(backends)
    ]
    machine.path("/etc/lbd/lbd.yaml").write_text(yaml.safe_dump(config))
    machine.do("systemctl", "enable", "lbd", "lbd-agent")
    yield Site(machine, host, port)
    machine.do("systemctl", "stop", "lbd.socket", "lbd", "lbd-agent")
    machine.run("systemctl", "revert", "lbd", "lbd-agent", "lbd.socket")
    machine.run("systemctl", "reset-failed")


slow = [pytest.mark.slow, pytest.mark.timeout(900)]


class TestInstalled:
    pytestmark = slow

    def test_systemd_finds_nothing_wrong(self, site: Site) -> None:
        done = site.machine.run(
            "systemd-analyze", "verify", "lbd.service", "lbd-agent.service", "lbd.socket"
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_one_start_starts_both_and_both_say_what_they_do(self, site: Site) -> None:
        site.machine.do("systemctl", "start", "lbd")
        # Type=notify: it is ready now, not soon.
        assert {site.ask() for _ in range(30)} >= {site.ask()}
        assert site.active("lbd") == "active"
        until(lambda: site.active("lbd-agent") == "active", "the agent started")
        until(lambda: "2 of 2 workers" in site.machine.show("lbd", "StatusText"), "status")
        until(lambda: "web: learn, step" in site.machine.show("lbd-agent", "StatusText"), "status")
        until(lambda: "weights are in force" in site.machine.journal(), "weights in force")

    def test_the_sandbox_holds_and_the_checkpoint_gets_out(self, site: Site) -> None:
        site.machine.do("systemctl", "start", "lbd", "lbd-agent")
        for unit, capabilities in (("lbd", 0x400), ("lbd-agent", 0)):
            status = Path(f"/proc/{site.pid(unit)}/status").read_text()
            found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == capabilities
            assert found["NoNewPrivs"] == "1"
            assert found["Seccomp"] == "2"
            assert "0" not in found["Uid"].split()

        def learned() -> bool:
            for _ in range(100):
                site.ask()
            seen = site.machine.do("runuser", "-u", "lbd", "--", PYTHON, "-m", "shm", "dump", "web")
            found = re.search(r"(\d+) learner updates", seen)
            assert found is not None, seen
            return int(found[1]) > 0

        until(learned, "a learner at work")
        site.machine.do("systemctl", "stop", "lbd-agent")
        saved = site.machine.path("/var/lib/lbd/web.safetensors")
        assert saved.stat().st_mode & 0o777 == 0o600
        assert site.ask()

    def test_the_agent_follows_the_daemon_and_not_the_reverse(self, site: Site) -> None:
        machine = site.machine
        # The wrong order: the agent first.
        machine.do("systemctl", "start", "lbd-agent")
        until(lambda: "waiting" in machine.show("lbd-agent", "StatusText"), "the agent waits")
        machine.do("systemctl", "start", "lbd")
        until(lambda: "step" in machine.show("lbd-agent", "StatusText"), "the agent at work")
        machine.do("systemctl", "stop", "lbd-agent")
        assert site.active("lbd") == "active"
        assert site.ask()
        machine.do("systemctl", "start", "lbd-agent")
        machine.do("systemctl", "stop", "lbd")
        until(lambda: site.active("lbd-agent") != "deactivating", "the agent stopped")
        assert site.active("lbd-agent") == "inactive", machine.journal()
        assert machine.run("ls", "/dev/shm").stdout == ""

    def test_a_killed_daemon_comes_back_and_finds_its_agent(self, site: Site) -> None:
        machine = site.machine
        before = machine.journal().count("weights are in force")
        machine.do("systemctl", "start", "lbd", "lbd-agent")

        def in_force() -> int:
            return machine.journal().count("weights are in force")

        until(lambda: in_force() > before, "weights in force")
        applied = in_force()
        os.kill(site.pid("lbd"), signal.SIGKILL)
        until(lambda: machine.show("lbd", "NRestarts") == "1", "the restart")
        until(lambda: site.active("lbd") == "active", "the daemon back")
        assert site.ask()
        until(lambda: in_force() > applied, "weights in force again")

    def test_the_watchdog_bites_a_daemon_that_hangs(self, site: Site) -> None:
        machine = site.machine
        dropin = machine.path("/etc/systemd/system/lbd.service.d/short.conf")
        dropin.parent.mkdir(parents=True)
        dropin.write_text("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
        machine.do("systemctl", "daemon-reload")
        machine.do("systemctl", "start", "lbd")
        os.kill(site.pid("lbd"), signal.SIGSTOP)
        until(lambda: machine.show("lbd", "NRestarts") == "1", "the watchdog")
        until(lambda: site.active("lbd") == "active", "the daemon back")
        assert site.ask()

    def test_a_bad_file_fails_the_reload_and_changes_nothing(self, site: Site) -> None:
        machine = site.machine
        machine.do("systemctl", "start", "lbd")
        before = site.pid("lbd")
        machine.path("/etc/lbd/lbd.yaml").write_text("services: [{name: web, lisen: x}]\n")
        assert machine.run("systemctl", "reload", "lbd").returncode != 0
        assert "services[0].lisen" in machine.journal()
        assert site.active("lbd") == "active"
        assert site.pid("lbd") == before
        assert site.ask()
        # A start with it fails for good: another try would find the same.
        assert machine.run("systemctl", "restart", "lbd").returncode != 0
        assert machine.show("lbd", "ExecMainStatus") == "78"
        assert site.active("lbd") == "failed"

    def test_a_group_reads_and_another_operates(self, site: Site) -> None:
        machine = site.machine
        for group in ("watch", "oncall"):
            machine.do("groupadd", "--force", group)
        path = machine.path("/etc/lbd/lbd.yaml")
        config = yaml.safe_load(path.read_text())
        config["api"] = {
            "listen": "unix:/run/lbd/api.sock",
            "group": "watch",
            "operators": "oncall",
        }
        path.write_text(yaml.safe_dump(config))
        dropin = machine.path("/etc/systemd/system/lbd.service.d/group.conf")
        dropin.parent.mkdir(parents=True, exist_ok=True)
        dropin.write_text("[Service]\nSupplementaryGroups=watch\n")
        machine.do("systemctl", "daemon-reload")
        machine.do("systemctl", "start", "lbd")
        assert machine.do("stat", "-c", "%a %U %G", "/run/lbd/api.sock") == "660 lbd watch\n"

        def lbctl(groups: list[str], *command: str) -> tuple[int, str]:
            """As a user who is nobody but a member of these groups."""
            options = [word for group in groups for word in ("--supp-group", group)]
            done = machine.run("runuser", "-u", "nobody", *options, "--", "lbctl", *command)
            return done.returncode, done.stdout + done.stderr

        drain = ("drain", "web", "b0")
        assert lbctl([], "status")[0] == 1
        code, told = lbctl(["watch"], "status")
        assert (code, "you may read" in told) == (0, True), told
        code, told = lbctl(["watch"], *drain)
        assert (code, "ready -> drain" in told) == (1, False), told
        code, told = lbctl(["watch", "oncall"], *drain)
        assert (code, "ready -> drain" in told) == (0, True), told
        assert "drain -> ready" in machine.do("lbctl", "set", "web", "b0", "state", "ready")

    @pytest.mark.parametrize("how", ["reload", "upgrade"])
    def test_a_reload_and_an_upgrade_leave_open_flows_and_the_unit_alone(
        self, site: Site, how: str
    ) -> None:
        machine = site.machine
        path = machine.path("/etc/lbd/lbd.yaml")
        config = yaml.safe_load(path.read_text())
        later = config["services"][0]["backends"].pop()
        path.write_text(yaml.safe_dump(config))
        machine.do("systemctl", "start", "lbd")
        before = site.pid("lbd")
        with socket.create_connection((site.host, site.port), 120) as early:
            config["services"][0]["backends"].append(later)
            path.write_text(yaml.safe_dump(config))
            if how == "reload":
                until(
                    lambda: "web: learn, step" in machine.show("lbd-agent", "StatusText"), "agent"
                )
                machine.do("systemctl", "reload", "lbd")
                until(lambda: "nothing has changed for the agent" in machine.journal(), "both told")
            asked, refused = 0, machine.journal().count("not upgraded")

            def used() -> bool:
                nonlocal asked
                # The new program is tried first; on a busy machine that may take too long.
                if how == "upgrade" and machine.journal().count("not upgraded") - refused >= asked:
                    machine.do("systemctl", "kill", "--kill-who=main", "--signal=USR2", "lbd")
                    asked += 1
                return later["address"].endswith(f":{site.ask()}")

            until(used, "the new backend used")
            early.sendall(b"hello\n")
            assert early.recv(100).endswith(b"hello\n")
        assert site.active("lbd") == "active"
        assert site.pid("lbd") == before
        assert machine.show("lbd", "NRestarts") == "0"

    def test_a_passed_socket_starts_the_daemon_and_outlives_it(self, free_site: Site) -> None:
        machine = free_site.machine
        dropin = machine.path("/etc/systemd/system/lbd.socket.d/port.conf")
        dropin.parent.mkdir(parents=True)
        listen = f"ListenStream=127.0.0.1:{free_site.port}\n"
        dropin.write_text(f"[Socket]\nListenStream=\n{listen * 2}")
        machine.do("systemctl", "daemon-reload")
        machine.do("systemctl", "start", "lbd.socket")
        assert free_site.active("lbd") == "inactive"
        assert free_site.ask()
        until(lambda: free_site.active("lbd") == "active", "the daemon up")
        stop = threading.Event()

        def ask_on() -> int:
            count = 0
            while not stop.is_set():
                free_site.ask()
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(ask_on) for _ in range(4)]
            machine.do("systemctl", "restart", "lbd")
            machine.do("systemctl", "restart", "lbd")
            stop.set()
            # None was refused or reset: an exception of a client's would come out here.
            assert all(client.result() > 0 for client in clients)
