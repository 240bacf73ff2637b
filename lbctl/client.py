"""The runtime API's other side: a request a call, over its unix socket.

Lives here: HTTP on a unix socket, errors in the daemon's own words. Never here: printing.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

TIMEOUT_S: Final = 60.0
"""New workers may take their time to serve."""


class ApiError(Exception):
    """The daemon refused, or cannot be reached; the message says why."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("lbd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """`path` of the socket. Every method raises ApiError."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._timeout_s = timeout_s

    def ask(
        self,
        method: str,
        *parts: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Any:
        """The answer to a request for /v1/PART/PART..., as JSON values."""
        target = "/v1/" + "/".join(quote(part, safe="") for part in parts)
        if query:
            target += "?" + urlencode(query)
        connection = _Connection(self.path, self._timeout_s)
        try:
            connection.request(method, target, body=None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ApiError(f"cannot speak to lbd at {self.path}: {reason}") from None
        finally:
            connection.close()
        try:
            found = json.loads(text)
        except ValueError:
            raise ApiError(f"lbd at {self.path} answered {answer.status}, not in JSON") from None
        if answer.status != 200:
            raise ApiError(str(found.get("error", answer.status)))
        return found
