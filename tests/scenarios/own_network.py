"""A network of the test's own: a thread whose sockets and children live in another namespace.

Lives here: its making and its end. Never here: what is tried in it. The namespace has a loopback
and a way out at which packets vanish; the kernel removes it with the last socket and process in it.
"""

from __future__ import annotations

import ctypes
import errno
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
_CLONE_NEWNET = 0x4000_0000
OURS = "192.0.2.1"
"""An address of this machine in it; 10.0.0.0/8 is where nobody answers."""
_SETUP = f"""
link set lo up
link add out type veth peer name nowhere
link set nowhere up
link set out arp off up
address add {OURS}/24 dev out
route add 10.0.0.0/8 dev out
"""


def in_own_network(work: Callable[[], T], sysctls: dict[str, str] | None = None) -> T:
    """What `work` returns or raises. sysctls: by their names below net. Skips the test where
    namespaces are not permitted."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed")
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            _enter(sysctls or {})
            found.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        if isinstance(raised[0], OSError) and raised[0].errno == errno.EPERM:
            pytest.skip("network namespaces are not permitted")
        raise raised[0]
    return found[0]


def _enter(sysctls: dict[str, str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    made = subprocess.run(["ip", "-batch", "-"], input=_SETUP, text=True, capture_output=True)
    if made.returncode:
        pytest.skip(f"no network of our own: {made.stderr}")
    for name, value in sysctls.items():
        # The files show the namespace of the thread that opens them.
        Path(f"/proc/sys/net/{name.replace('.', '/')}").write_text(value)


def counters(protocol: str) -> dict[str, int]:
    """The kernel's counters of a protocol (TcpExt and the like) in this thread's namespace."""
    net = Path(f"/proc/self/task/{threading.get_native_id()}/net")
    text = (net / "netstat").read_text() + (net / "snmp").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith(f"{protocol}:")]
    return dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=True))
