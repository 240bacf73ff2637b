"""A systemd of its own in namespaces, over a throw-away overlay of this machine's files.

Lives here: boot, commands inside, the end. Never here: what is tested. The network is this
machine's, so that clients and backends of the test reach what runs inside; processes, mounts,
cgroups and everything written are the inner machine's own, and gone with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType

from testbed.kernel import end_with_parent

BOOT = r"""
set -e
mount -t tmpfs tmpfs "$SCRATCH"
mkdir "$SCRATCH/upper" "$SCRATCH/work" "$SCRATCH/root"
mount -t overlay -o "lowerdir=/,upperdir=$SCRATCH/upper,workdir=$SCRATCH/work" overlay \
    "$SCRATCH/root"
cd "$SCRATCH/root"
rm -rf etc/systemd/system/* etc/machine-id etc/lbd
: > etc/machine-id
cp -a "$FILES/." .
mkdir -p "./$BOUND"
mount --bind "$BOUND_FROM" "./$BOUND"
mount -t proc proc proc
# The inner machine's settings are not this one's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
ln -s /dev/null etc/systemd/system/systemd-sysctl.service
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for dir in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s null dev/console
pivot_root . mnt
umount -l /mnt
exec env -i container=lxc PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=test.target
"""
TARGET = "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAllowIsolate=yes\n"
BOOT_S = 60.0


class Machine:
    """Boots on entry.

    `files` is copied over the root. `bound` is a directory below it that is too large for that:
    (its path inside, from where). `scratch` is an empty directory.
    """

    def __init__(self, files: Path, bound: tuple[str, Path], scratch: Path) -> None:
        self._files = files
        self._bound = bound
        self._scratch = scratch
        self._group = _cgroup2() / f"lbd-test-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self.init_pid = 0

    def __enter__(self) -> Machine:
        target = self._files / "etc/systemd/system/test.target"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(TARGET)
        self._group.mkdir()
        parent_pid = os.getpid()
        try:
            self._process = subprocess.Popen(
                ["unshare", *"-m -p -C -u -i --fork --kill-child bash -c".split(), BOOT],
                env={
                    **os.environ,
                    "SCRATCH": str(self._scratch),
                    "FILES": str(self._files),
                    "BOUND": self._bound[0],
                    "BOUND_FROM": str(self._bound[1]),
                },
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: self._enter(parent_pid),
            )
            self._wait_for_boot(self._process.pid)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _enter(self, parent_pid: int) -> None:
        """In the child: its cgroup, and an end with this process, however that ends."""
        (self._group / "cgroup.procs").write_text("0")
        end_with_parent(parent_pid)

    def _wait_for_boot(self, parent_pid: int) -> None:
        end_s = time.monotonic() + BOOT_S
        children = Path(f"/proc/{parent_pid}/task/{parent_pid}/children")
        while time.monotonic() < end_s:
            assert self._process is not None
            assert self._process.poll() is None, "the inner machine ended while it booted"
            pids = children.read_text().split()
            if pids and Path(f"/proc/{pids[0]}/comm").read_text() == "systemd\n":
                self.init_pid = int(pids[0])
                if self.run("systemctl", "is-system-running").stdout.strip() == "running":
                    return
            time.sleep(0.05)
        raise AssertionError("the inner machine did not boot")

    def run(self, *command: str, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run inside and wait; whatever its status."""
        return subprocess.run(
            ["nsenter", "-t", str(self.init_pid), *"-m -p -C -u -i --".split(), *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def do(self, *command: str) -> str:
        """Run inside; it must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.do("systemctl", "show", "-P", name, unit).strip()

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat").stdout

    def path(self, inside: str) -> Path:
        """A path inside, as this side can open it."""
        return Path(f"/proc/{self.init_pid}/root{inside}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            # The kernel ends the init with its parent, and all processes with the init.
            self._process.kill()
            self._process.wait()
        end_s = time.monotonic() + BOOT_S
        while self._group.exists() and time.monotonic() < end_s:
            for path, _, _ in os.walk(self._group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            time.sleep(0.02)


def _cgroup2() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise AssertionError("this machine has no cgroup2 mount")
