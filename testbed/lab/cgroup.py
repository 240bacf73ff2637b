"""Shares of the CPU by control group, version 1 or 2, whichever has the CPU controller here.

Lives here: finding the hierarchies, groups, quotas, CPU time, the end of all that is in a group.
Never here: what runs in them. Source: cgroups(7), Documentation/scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from testbed.lab.driver import LabError

PERIOD_US = 20_000
"""The kernel's own 100 ms makes latency bimodal: a server is fast, then gone for a tenth second."""

QUOTA_MIN_US = 1_000
"""The kernel refuses less."""

_END_S = 10.0
_POLL_S = 0.005


def quota(cores: float) -> tuple[int, int]:
    """CPU time in a period, and the period, us: more than 20 ms where the kernel needs that."""
    period_us = max(PERIOD_US, round(QUOTA_MIN_US / cores))
    return max(QUOTA_MIN_US, round(cores * period_us)), period_us


@dataclass(frozen=True)
class Hierarchy:
    """Where groups are made: version 2's one tree, or version 1's of `cpu` and of `cpuacct`."""

    version: int
    tops: tuple[Path, ...]

    @classmethod
    def detect(cls, mountinfo: str | None = None) -> Hierarchy:
        """This host's, from proc_pid_mountinfo(5). Raises LabError where there is none."""
        text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        v1: dict[str, Path] = {}
        for line in text.splitlines():
            left, _, right = line.partition(" - ")
            where = Path(left.split()[4])
            kind, _, options = right.split(" ", 2)
            if kind == "cgroup2":
                with contextlib.suppress(OSError):
                    if "cpu" in (where / "cgroup.controllers").read_text().split():
                        return cls(2, (where,))
            elif kind == "cgroup":
                for controller in {"cpu", "cpuacct"} & set(options.split(",")):
                    v1.setdefault(controller, where)
        if set(v1) != {"cpu", "cpuacct"}:
            raise LabError("no control groups with a CPU controller are mounted here")
        # Both may be one tree.
        return cls(1, tuple(dict.fromkeys((v1["cpu"], v1["cpuacct"]))))

    def spent_ns(self) -> int:
        """CPU time so far of all processes of this host, ns, as exactly as the scheduler knows it.

        Version 2 tells ticks of the root, like `/proc/stat`, and exact times of all below it.
        """
        if self.version == 1:
            return self.family("").cpu_ns()
        spent_ns = 0
        for stat in self.tops[0].glob("*/cpu.stat"):
            # A group may go while this looks.
            with contextlib.suppress(FileNotFoundError):
                spent_ns += self.family(stat.parent.name).cpu_ns()
        return spent_ns

    def family(self, name: str) -> Group:
        """The group called `name` at the top, to hold the machines' groups; made or not."""
        return Group(self.version, tuple(top / name for top in self.tops))

    def open_to_groups(self, folders: tuple[Path, ...]) -> None:
        """Version 2: let groups right below `folders` have CPU quotas."""
        if self.version == 2:
            for folder in folders:
                control = folder / "cgroup.subtree_control"
                if "cpu" not in control.read_text().split():
                    try:
                        control.write_text("+cpu")
                    except OSError as error:
                        raise LabError(f"{control}: {error.strerror}; cannot give quotas") from None


@dataclass(frozen=True)
class Group:
    """One group: the same name in each hierarchy, that of the CPU first."""

    version: int
    folders: tuple[Path, ...]

    @property
    def exists(self) -> bool:
        return any(folder.exists() for folder in self.folders)

    @property
    def doors(self) -> tuple[Path, ...]:
        """Files that a process writes 0 into to join."""
        return tuple(folder / "cgroup.procs" for folder in self.folders)

    def inner(self, name: str) -> Group:
        """The group called `name` right below; made or not."""
        return Group(self.version, tuple(folder / name for folder in self.folders))

    def create(self) -> None:
        """Make it. Raises FileExistsError where somebody else's is there."""
        for folder in self.folders:
            folder.mkdir()

    def set_cores(self, cores: float | None) -> None:
        """At most `cores` CPU time over wall time for all that is inside; None: no limit."""
        quota_us, period_us = (-1, PERIOD_US) if cores is None else quota(cores)
        if self.version == 2:
            most = "max" if cores is None else quota_us
            (self.folders[0] / "cpu.max").write_text(f"{most} {period_us}")
        else:
            # The old quota may be too small or too large for the new period, not so none at all.
            (self.folders[0] / "cpu.cfs_quota_us").write_text("-1")
            (self.folders[0] / "cpu.cfs_period_us").write_text(str(period_us))
            (self.folders[0] / "cpu.cfs_quota_us").write_text(str(quota_us))

    def cpu_ns(self) -> int:
        """CPU time so far of all that ever was inside, ns."""
        if self.version == 1:
            return int((self.folders[-1] / "cpuacct.usage").read_text())
        fields = (self.folders[0] / "cpu.stat").read_text().split()
        return int(fields[fields.index("usage_usec") + 1]) * 1000

    def pids(self) -> set[int]:
        """Processes inside."""
        found: set[int] = set()
        for door in self.doors:
            with contextlib.suppress(FileNotFoundError):
                found.update(int(pid) for pid in door.read_text().split())
        return found

    def remove(self) -> None:
        """Kill all that is inside and remove it. Raises LabError where something does not end."""
        until_s = time.monotonic() + _END_S
        while True:
            self.kill()
            if not self.pids() and self._removed():
                return
            if time.monotonic() > until_s:
                raise LabError(f"{self.folders[0]} cannot be removed: {sorted(self.pids())} live")
            time.sleep(_POLL_S)

    def empty(self) -> None:
        """Kill all that is inside. Raises LabError where something does not end."""
        until_s = time.monotonic() + _END_S
        while self.pids():
            self.kill()
            if time.monotonic() > until_s:
                raise LabError(f"{self.folders[0]}: {sorted(self.pids())} live")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """SIGKILL to all that is inside at this moment."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                try:
                    # Only now is it certain whose number it is.
                    if pid in self.pids():
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)

    def _removed(self) -> bool:
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                # The last process may not be quite gone.
                if error.errno != errno.EBUSY:
                    raise
                return False
        return True
