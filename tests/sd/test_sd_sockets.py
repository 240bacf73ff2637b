"""Descriptors as systemd passes them, in a process of their own: they are numbered from 3."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from sd.sockets import take

ROOT = Path(__file__).resolve().parents[2]

TAKE = """
import os
from sd.sockets import take
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="a:b")
sockets = take(os.environ)
print([s.getsockname()[1] for s in sockets])
print([s.get_inheritable() for s in sockets], [k for k in os.environ if k.startswith("LISTEN_")])
"""


def test_sockets_come_in_order_and_are_kept_from_children() -> None:
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:

        def number_from_three() -> None:
            # By way of high numbers: either may be 3 or 4 already.
            high = [os.dup2(s.fileno(), 900 + i) for i, s in enumerate((a, b))]
            for fd, at in zip(high, (3, 4), strict=True):
                os.dup2(fd, at)

        done = subprocess.run(
            [sys.executable, "-c", TAKE],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=number_from_three,
            close_fds=False,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        ports = [a.getsockname()[1], b.getsockname()[1]]
    assert done.stdout.splitlines() == [str(ports), "[False, False] []"], done.stderr


def test_what_is_meant_for_another_process_is_not_taken_nor_passed_on() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "HOME": "/"}
    assert take(environ) == []
    assert environ == {"HOME": "/"}
    assert take({}) == []
