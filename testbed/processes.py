"""Child processes that do not outlive whoever started them.

Lives here: start, ready line, output, CPU time, end; each child by its own handle, never by
name. Never here: what the children do.

Resource handling: `Children` ends every child on the way out of its block, whatever the reason;
if this process is killed, the kernel kills the children. Each child leads a session of its own,
so that what it started in turn ends with it, and so that Ctrl-C reaches this process only.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from testbed.kernel import end_with_parent

Popen = Callable[..., "subprocess.Popen[str]"]

_OUTPUT_LINES_MAX = 200
_LOWEST_PORT = 10_000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ChildError(Exception):
    """A child ended or kept silent when it should not; the message has its last output."""


class Child:
    """One running child. Made by `Children.start`; its standard output and error are read here."""

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None, popen: Popen
    ) -> None:
        parent_pid = os.getpid()
        self.name = name
        self._output: deque[str] = deque(maxlen=_OUTPUT_LINES_MAX)
        self._changed = threading.Condition()
        self._at_end = False
        self._cpu_s: float | None = None
        self._process = popen(
            argv,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(parent_pid),
        )
        self.pid = self._process.pid
        # Its process identity, not its number, which could be another's after its end.
        self._handle = os.pidfd_open(self.pid)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name=f"output of {name}", daemon=True
        )
        self._reader.start()

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or is not yet stopped."""
        return self._process.returncode

    def running(self) -> bool:
        """Whether the process is still there."""
        return self.returncode is None and not self._ended_within(0)

    def output(self) -> list[str]:
        """The last lines that the child wrote."""
        with self._changed:
            return list(self._output)

    def wait_line(self, text: str, deadline_s: float) -> str:
        """The first kept line of output that contains `text`, now or within `deadline_s`.

        Raises ChildError if the child ends or the deadline passes first.
        """
        until_s = time.monotonic() + deadline_s
        with self._changed:
            while True:
                for line in self._output:
                    if text in line:
                        return line
                left_s = until_s - time.monotonic()
                if self._at_end or left_s <= 0:
                    why = "ended" if self._at_end else f"took more than {deadline_s:g} s"
                    said = "\n".join(self._output)
                    raise ChildError(f"{self.name} {why} before {text!r}; it said:\n{said}")
                self._changed.wait(left_s)

    def wait(self, deadline_s: float) -> int:
        """Wait for the child to end by itself; its exit status.

        Raises ChildError if the deadline passes first.
        """
        if self.returncode is None:
            if not self._ended_within(deadline_s):
                raise ChildError(f"{self.name} still runs after {deadline_s:g} s")
            self._reap()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the child has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def cpu_s(self) -> float:
        """CPU seconds so far of the child and all that it started; final after its end.

        Of descendants, those are counted that still run in its session or were waited for.
        """
        if self._cpu_s is not None:
            return self._cpu_s
        return sum(_cpu_ticks_in_session(self.pid)) / _TICKS_PER_S

    def stop(self, grace_s: float = 10.0) -> int:
        """SIGTERM, after `grace_s` SIGKILL; its exit status. May be called again."""
        if self.returncode is None:
            self.send_signal(signal.SIGTERM)
            if not self._ended_within(grace_s):
                self.send_signal(signal.SIGKILL)
                self._ended_within(None)
            self._reap()
        assert self.returncode is not None
        return self.returncode

    def _ended_within(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(0, seconds) * 1e3))

    def _reap(self) -> None:
        """Collect the ended child, and end whatever it has left behind."""
        # Before it is waited for: until then nobody else can have its number, nor its session's.
        descendants_s = sum(_cpu_ticks_in_session(self.pid)) / _TICKS_PER_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        self._cpu_s = max(descendants_s, usage.ru_utime + usage.ru_stime)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        os.close(self._handle)
        # Bounded, since a descendant that left the session could still hold the pipe.
        self._reader.join(1.0)

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._output.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()


class Children:
    """A context manager; ends all children it has started, the last one first."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # All are told first: they end together, and the slowest one sets the time.
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        for child in reversed(self._children):
            child.stop()

    def cpu_s(self) -> float:
        """CPU seconds of all children so far, see `Child.cpu_s`."""
        return sum(child.cpu_s() for child in self._children)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        popen: Popen = subprocess.Popen,
    ) -> Child:
        """Start `argv`; `env` is added to this process's environment. Does not wait.

        popen: what takes the arguments of `subprocess.Popen` and starts it, maybe elsewhere.
        Call it from a thread that lives as long as the children shall: the kernel takes that
        thread's end for the parent's. Raises OSError if the program cannot be started.
        """
        child = Child(name, argv, env, popen)
        self._children.append(child)
        return child


def unwind_on_signals() -> None:
    """Let SIGTERM and SIGHUP unwind this process as Ctrl-C does, so that its children end in order.

    Otherwise the kernel kills them, and a balancer that is killed leaves its shared memory behind.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody uses at this moment, for TCP or UDP, on any address.

    They lie below the kernel's ephemeral range, so that no outgoing connection of a busy machine
    takes one before it is used; and are drawn at random, so that no other run does. Where a server
    can listen on port 0 and say which one it got, prefer that.
    """
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(_LOWEST_PORT, ephemeral))
    random.SystemRandom().shuffle(candidates)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as sock:
            try:
                sock.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return False
    return True


def cpu_ns_in_session(child: Child) -> int:
    """CPU time so far of the child and its descendants that run, in nanoseconds: for differences
    that are small beside the clock's ticks. What has ended in between is missing."""
    total_ns = 0
    for pid in _in_session(child.pid):
        # A process or thread may end between the listing and the reading.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns


def _in_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
    return found


def _cpu_ticks_in_session(session: int) -> list[int]:
    """CPU time of each process in the session with that of its waited-for children, in ticks."""
    ticks = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # A process may end between the listing and the reading.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name in parentheses may contain anything; what follows it is fixed.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    ticks.append(sum(int(value) for value in fields[11:15]))
    return ticks
