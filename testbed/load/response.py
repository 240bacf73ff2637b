"""A response's bytes, counted as they come: is it whole, and what is its status.

Lives here: HTTP/1.x responses to GET, by Content-Length or up to the end of the connection.
Chunked ones are reported as a bad status: one-shot requests are HTTP/1.0 and never get them.
Never here: sockets, time. Downstream: `testbed.load.client`.
"""

from __future__ import annotations

import re

_HEAD_MAX_BYTES = 65536
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)


class ResponseReader:
    """Reads one response. `status` is 0 until the head is whole, and for what is no response."""

    __slots__ = ("_expected", "_head", "complete", "keep_alive", "size_bytes", "status")

    def __init__(self) -> None:
        self.status = 0
        self.size_bytes = 0
        self.complete = False
        self.keep_alive = False
        self._head = b""
        # Size of the whole response; None while unknown or given by the end of the connection.
        self._expected: int | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes; `complete` tells whether they were the last."""
        self.size_bytes += len(data)
        if self._expected is None and self.status == 0:
            self._head += data
            self._read_head()
        if self._expected is not None and self.size_bytes >= self._expected:
            self.complete = True
            # More than was announced: whatever follows cannot be trusted.
            self.keep_alive = self.keep_alive and self.size_bytes == self._expected

    def end(self) -> None:
        """The connection has ended in good order; that may be what completes the response."""
        if self.status and self._expected is None:
            self.complete = True
        self.keep_alive = False

    def _read_head(self) -> None:
        head = self._head
        end = head.find(b"\r\n\r\n")
        if end < 0:
            if len(head) > _HEAD_MAX_BYTES:
                self.complete = True
            return
        fields = head[: end + 2]
        status = _STATUS.match(fields)
        if status is None or _CHUNKED.search(fields):
            self.complete = True
            return
        self.status = int(status[1])
        self._head = b""
        length = _LENGTH.search(fields)
        if length is not None:
            self._expected = end + 4 + int(length[1])
            self.keep_alive = head.startswith(b"HTTP/1.1") and not _CLOSE.search(fields)
