"""Asking a server how busy it is: GET /stats over a connection that is kept.

Lives here: the question and what the answer means. Never here: who answers (`sensor`,
`testbed.server`), how often it is asked.
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
from dataclasses import dataclass

TIMEOUT_S = 2.0
_ANSWER_MAX_BYTES = 4096


@dataclass(frozen=True)
class Busy:
    """jobs: workers at work (the share of CPU is in cpu_s). cpu_s: CPU seconds used so far.

    at_s: of CLOCK_MONOTONIC on the server, when it was so. asking_s: CPU seconds that answering has
    cost the server so far, NaN where it does not tell.
    """

    jobs: int
    cpu_s: float
    at_s: float
    asking_s: float = math.nan


class AskError(Exception):
    """The server did not answer, or not that; the message says why."""


class Asker:
    """One server's. Connects at the first question; again after a failure.

    wire_bytes: sent and received so far, without the headers of TCP and IP.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._socket: socket.socket | None = None
        request = f"GET /stats HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
        self._request = request.encode("ascii")
        self.wire_bytes = 0

    def ask(self) -> Busy:
        """Raises AskError."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._address, TIMEOUT_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(self._request)
            body = self._answer(self._socket)
            found = json.loads(body)
            return Busy(
                int(found["in_service"]),
                float(found["busy_cpu_s"]),
                float(found["at_s"]),
                float(found.get("asking_s", math.nan)),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise AskError(f"{self._address[0]}:{self._address[1]}: {error!r}") from error

    def close(self) -> None:
        """May be called twice; the next question connects again."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _answer(self, sock: socket.socket) -> bytes:
        data = b""
        while True:
            part = sock.recv(_ANSWER_MAX_BYTES)
            data += part
            head, end, body = data.partition(b"\r\n\r\n")
            if end:
                wanted = _content_length(head)
                if len(body) >= wanted:
                    self.wire_bytes += len(self._request) + len(data)
                    return body
            if not part:
                raise ConnectionResetError("it hung up")
            if len(data) > _ANSWER_MAX_BYTES:
                raise ValueError("too long an answer")


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without a length")
