"""sd_notify(3): how a service tells its manager that it is ready, alive, and what it is doing.

Lives here: the datagrams and their pace. Never here: what the status says.
Upstream: `lbd.supervisor`, `agent.live`. Downstream: the manager's socket, which may be absent,
full or gone: then a message is dropped and counted, and no caller waits for more than SEND_S.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

SEND_S: Final = 0.2
"""How long a message may wait for room in the manager's queue."""
EVERY_S: Final = 2.0
"""From one status to the next, where the watchdog does not want more."""
BEATS_A_TIMEOUT: Final = 3
"""Two beats may get lost before the watchdog bites."""


class Notifier:
    """One service's line to its manager. Never raises for what the manager does.

    `dropped_total` counts the messages that could not be sent.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address` as in NOTIFY_SOCKET: a path, "@name" for an abstract socket, "" for none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        every_s = EVERY_S if watchdog_s is None else min(EVERY_S, watchdog_s / BEATS_A_TIMEOUT)
        self._watchdog_s = watchdog_s
        self._every_ns = int(every_s * 1e9)
        self._due_ns = 0
        self.dropped_total = 0

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Notifier:
        """As the manager has set it in `environ`, and no longer there: it is not for children."""
        address = environ.pop("NOTIFY_SOCKET", "")
        timeout_us = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        watched = timeout_us.isdecimal() and int(timeout_us) > 0 and pid in ("", str(os.getpid()))
        return cls(address, int(timeout_us) * 1e-6 if watched else None)

    def tell(self, **state: object) -> None:
        """Send assignments, `READY=1` or `STATUS="..."`, each on one line."""
        if not self._address:
            return
        text = "\n".join(f"{key}={' '.join(str(value).split())}" for key, value in state.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_S)
            try:
                sock.sendto(text.encode(), self._address)
            except OSError:
                self.dropped_total += 1

    def be_patient(self, more_s: float | None) -> None:
        """Let the watchdog wait `more_s` longer than it is set to; None: no longer, again."""
        if self._watchdog_s is not None:
            wait_s = self._watchdog_s + (more_s or 0.0)
            self.tell(WATCHDOG=1, WATCHDOG_USEC=int(wait_s * 1e6))

    def beat(self, now_ns: int, status: Callable[[], str]) -> None:
        """Tell the status and feed the watchdog, if it is time; `status` is asked only then."""
        if not self._address or now_ns < self._due_ns:
            return
        self._due_ns = now_ns + self._every_ns
        watchdog = {"WATCHDOG": 1} if self._watchdog_s is not None else {}
        self.tell(STATUS=status(), **watchdog)
