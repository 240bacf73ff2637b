"""sd_listen_fds(3): the listening sockets that a manager passes to a service.

Lives here: taking them out of the environment. Never here: which service of ours wants which.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

FIRST_FD: Final = 3


def take(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets passed to this process, in the unit's order; none if there are none.

    They are closed in children that do not ask for them, and the environment does not name them any
    more. Raises OSError if a descriptor that was announced is no open socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    sockets = [socket.socket(fileno=fd) for fd in range(FIRST_FD, FIRST_FD + int(count))]
    for sock in sockets:
        sock.set_inheritable(False)
    return sockets
