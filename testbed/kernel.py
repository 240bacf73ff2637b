"""The Linux calls that Python 3.11 does not wrap: timerfd, the parent-death signal, setns.

Lives here: ctypes, and nowhere else in the testbed. Never here: policy or an event loop.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_NS_PER_S = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


def timerfd_create() -> int:
    """A non-blocking, close-on-exec timer descriptor on CLOCK_MONOTONIC; the caller closes it."""
    descriptor: int = _libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    return descriptor


def timerfd_set(descriptor: int, at_ns: int) -> None:
    """Make `descriptor` readable once at `at_ns` (CLOCK_MONOTONIC); 0 disarms it.

    A time in the past makes it readable at once.
    """
    seconds, nanoseconds = divmod(at_ns, _NS_PER_S)
    spec = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
    if _libc.timerfd_settime(descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd_settime")


def end_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends.

    `parent_pid` is the parent that the caller believes it has. Where that parent has already
    ended, this process ends here: no signal would come for a death in the past.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent_pid:
        os._exit(1)


def join_network(namespace: Path) -> None:
    """The calling thread, and no other, is from now on in that network namespace."""
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns", str(namespace))
    finally:
        os.close(descriptor)
