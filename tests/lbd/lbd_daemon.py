"""The real daemon as a child process, and what /proc and /dev/shm tell about it.

Lives here: its configuration file, start and stop, its workers' pids, its regions. Never here:
traffic. Processes are ended by their own pid only, after a look that it is still theirs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from lbd_waiting import DEADLINE_S, until

from shm.errors import RegionAbsent
from shm.layout import SCALAR, STATE
from shm.reader import Reader
from shm.region import Region
from shm.snapshot import Snapshot
from shm.states import label, state_rows
from testbed.processes import free_ports

ROOT = Path(__file__).resolve().parents[2]
ORPHAN_S = DEADLINE_S
_numbers = itertools.count()


def unique_name() -> str:
    """A service name that no other run on this machine has."""
    return f"t{os.getpid()}-{next(_numbers)}"


def free_port() -> int:
    return free_ports(1)[0]


def service(backends: list[str], **settings: Any) -> dict[str, Any]:
    """A service's section, on a free port with a unique name unless `settings` say otherwise."""
    return {
        "name": unique_name(),
        "listen": f"127.0.0.1:{free_port()}",
        "backends": [{"name": f"b{i}", "address": a} for i, a in enumerate(backends)],
        **settings,
    }


def segment_path(name: str) -> Path:
    return Path("/dev/shm") / f"lbd.{name}"


def is_alive(pid: int) -> bool:
    """Running or stopped; a zombie is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Rss in smaps_rollup")


def _is_worker(pid: int) -> bool:
    try:
        return b"lbd.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


class Daemon:
    """`python -m lbd --config FILE`. `wrap` goes before the command, `limits` runs in the child."""

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        wrap: tuple[str, ...] = (),
        **popen: Any,
    ) -> None:
        self.services: list[dict[str, Any]] = config["services"]
        self.count = config.get("workers", 1)
        self.path = folder / f"{unique_name()}.yaml"
        self.path.write_text(yaml.safe_dump(config, sort_keys=False))
        self._log = tempfile.TemporaryFile()
        self._known: set[int] = set()
        self._told_to_end = False
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        self.process = subprocess.Popen(
            [*wrap, sys.executable, "-m", "lbd", "--config", str(self.path)],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            **popen,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        self._log.flush()
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def workers(self) -> list[int]:
        """Pids of the worker processes alive, from the kernel."""
        found = [pid for pid in self._children() if _is_worker(pid) and is_alive(pid)]
        self._known.update(found)
        return found

    def _children(self) -> list[int]:
        found: list[int] = []
        try:
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            return []
        return found

    def _serving(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.log}")
        self.workers()
        return all(self._ready(s["name"]) for s in self.services)

    def _ready(self, name: str) -> bool:
        """Every worker has published once: it accepts."""
        try:
            region = Region.attach(name)
        except RegionAbsent:
            return False
        with closing(region):
            if region.owner_pid != self.pid:
                return False
            return all(heartbeats(region)) and all(
                pid in self._known for pid in worker_pids(region)
            )

    def start(self) -> Daemon:
        """Wait until all workers serve."""
        until(self._serving, "all workers serving")
        return self

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """The exit status."""
        self.workers()
        return self.process.wait(deadline_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop in order; the exit status."""
        self.workers()
        if self.process.poll() is None:
            self.send(number)
        return self.wait()

    def terminate(self) -> None:
        """Ask it to end, once, and do not wait: who is about to leave has no handler any more."""
        self.workers()
        if self.process.poll() is None and not self._told_to_end:
            self._told_to_end = True
            self.process.terminate()

    def close(self) -> list[str]:
        """End everything by its handle; returns what had been left that should not."""
        self.terminate()
        left = []
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            children = self._children()
            # It tells where it stands still (faulthandler) while it dies.
            self.process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()
            left.append(f"daemon {self.pid}, which did not stop:\n{self.log}")
            for pid in children:
                # Among them one that never came to be a worker.
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        # Workers of a supervisor that was killed leave by themselves, a moment after it.
        deadline_s = time.monotonic() + ORPHAN_S
        for pid in self._known:
            while is_alive(pid) and _is_worker(pid) and time.monotonic() < deadline_s:
                time.sleep(0.005)
            if is_alive(pid) and _is_worker(pid):
                left.append(f"worker {pid}")
                os.kill(pid, signal.SIGKILL)
        for entry in self.services:
            path = segment_path(entry["name"])
            if path.exists() and not _owned(entry["name"]):
                left.append(str(path))
                path.unlink()
        self._log.close()
        return left


def _owned(name: str) -> bool:
    with attached(name) as region:
        return region.owner_alive()


@contextmanager
def attached(name: str) -> Iterator[Region]:
    region = Region.attach(name)
    try:
        yield region
    finally:
        region.close()


def scalar(region: Region, worker: int, name: str) -> int:

    return region.words[region.layout.worker(worker) + SCALAR[name]]


def heartbeats(region: Region) -> list[int]:
    return [scalar(region, w, "heartbeat_ns") for w in range(region.layout.workers)]


def worker_pids(region: Region) -> list[int]:
    return [scalar(region, w, "pid") for w in range(region.layout.workers)]


def snapshot(name: str, now_ns: int = 0) -> Snapshot:
    with attached(name) as region:
        return Reader(region).snapshot(now_ns)


def scalars(name: str) -> dict[str, int]:
    with attached(name) as region:
        return Reader(region).scalars()


def states(name: str) -> dict[str, str]:
    """{backend: state}."""
    with attached(name) as region:
        flags = state_rows(region)[STATE["flags"]]
        return {entry.name: label(int(flags[entry.slot])) for entry in region.entries()}


def state_word(name: str, backend: str, row: str) -> int:
    with attached(name) as region:
        slot = next(entry.slot for entry in region.entries() if entry.name == backend)
        return int(state_rows(region)[STATE[row], slot])


def share(name: str, backend: str) -> float:
    with attached(name) as region:
        slot = next(entry.slot for entry in region.entries() if entry.name == backend)
        return float(state_rows(region)[STATE["share"]].view("<f8")[slot])


def usable(name: str) -> set[str]:
    with attached(name) as region:
        slots = set(region.usable_slots().tolist())
        return {entry.name for entry in region.entries() if entry.slot in slots}


def totals(name: str) -> dict[str, int]:
    """Summed over backends, with the gauges `flows` and `waiting` beside them."""
    seen = snapshot(name)
    found = {key: int(row.sum()) for key, row in seen.totals.items()}
    return {**found, "flows": int(seen.flows.sum()), "waiting": int(seen.waiting.sum())}
