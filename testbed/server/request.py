"""The bytes of HTTP/1.x, as much as a backend under test needs.

Lives here: one request's head out of a buffer, what it asks for, one response into bytes.
Never here: sockets, jobs, time. Downstream: `testbed.server.connection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from urllib.parse import parse_qs

# A request's head and body, and what a client may send ahead of its answer.
HEAD_MAX_BYTES = 8192
BODY_MAX_BYTES = 65536
_NUMBER_MAX_DIGITS = 18
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class BadRequestError(Exception):
    """The client's bytes are not a request that this server understands."""


@dataclass(frozen=True)
class Head:
    """A request's head: `size_bytes` of it in the buffer, then `body_bytes` to skip."""

    method: str
    target: str
    keep_alive: bool
    size_bytes: int
    body_bytes: int


@dataclass(frozen=True)
class Work:
    """The request is a job of `work_s` seconds of one CPU at speed 1."""

    work_s: float


@dataclass(frozen=True)
class Control:
    """The request changes the server; None leaves a setting as it is."""

    speed: float | None
    fault: str | None


@dataclass(frozen=True)
class Stats:
    """The request asks for the counts."""


@dataclass(frozen=True)
class Refusal:
    """The request is well formed and asks for something that is not here."""

    status: int
    why: str


Wish = Work | Control | Stats | Refusal


def parse_head(buffer: bytes | bytearray) -> Head | None:
    """The head that `buffer` begins with; None while it is incomplete.

    Raises BadRequestError for anything that is not HTTP/1.0 or 1.1, for a head beyond
    `HEAD_MAX_BYTES` or a body beyond `BODY_MAX_BYTES`, and for chunked bodies.
    """
    end = buffer.find(b"\r\n\r\n", 0, HEAD_MAX_BYTES)
    if end < 0:
        if len(buffer) >= HEAD_MAX_BYTES:
            raise BadRequestError(f"head longer than {HEAD_MAX_BYTES} bytes")
        # Garbage without an end of line would otherwise keep its connection for ever.
        if b"\r\n" in buffer:
            _parse_request_line(bytes(buffer[: buffer.index(b"\r\n")]))
        return None
    request_line, *lines = bytes(buffer[:end]).split(b"\r\n")
    method, target, version = _parse_request_line(request_line)
    keep_alive = version == b"HTTP/1.1"
    body_bytes = 0
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadRequestError("malformed header line")
        field = name.lower()
        if field == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        elif field == b"content-length":
            body_bytes = _number(value.strip().decode("latin-1"), "Content-Length")
            if body_bytes > BODY_MAX_BYTES:
                raise BadRequestError(f"body longer than {BODY_MAX_BYTES} bytes")
        elif field == b"transfer-encoding":
            raise BadRequestError("transfer encodings are not understood")
    return Head(method, target, keep_alive, end + 4, body_bytes)


def understand(head: Head, iterations_per_s: float) -> Wish:
    """What the request asks for.

    `GET /dummy.php/?n=N` is N loop iterations, `GET /?work_us=U` is U microseconds of work;
    `POST /control?speed=S&fault=F`; `GET /stats`. Raises BadRequestError for a missing or
    malformed value.
    """
    path, _, query = head.target.partition("?")
    path = path.rstrip("/")
    values = parse_qs(query, keep_blank_values=True)
    expected = "POST" if path == "/control" else "GET"
    if path not in ("", "/dummy.php", "/stats", "/control"):
        return Refusal(404, "no such page")
    if head.method != expected:
        return Refusal(405, f"only {expected} here")
    if path == "/dummy.php":
        return Work(_number(_single(values, "n"), "n") / iterations_per_s)
    if path == "/stats":
        return Stats()
    if path == "/control":
        return Control(
            speed=_speed(_single(values, "speed")) if "speed" in values else None,
            fault=_single(values, "fault") if "fault" in values else None,
        )
    return Work(_number(_single(values, "work_us"), "work_us") / 1e6)


def response(status: int, body: bytes, *, keep_alive: bool, kind: str = "text/plain") -> bytes:
    """A whole response, head and body."""
    connection = "keep-alive" if keep_alive else "close"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n"
    )
    return head.encode("ascii") + body


def _parse_request_line(line: bytes) -> tuple[str, str, bytes]:
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise BadRequestError("not an HTTP/1.0 or HTTP/1.1 request line")
    if not words[0].isalpha() or not words[1].startswith(b"/"):
        raise BadRequestError("malformed method or target")
    try:
        return words[0].decode("ascii"), words[1].decode("ascii"), words[2]
    except UnicodeDecodeError as error:
        raise BadRequestError("request line is not ASCII") from error


def _single(values: dict[str, list[str]], name: str) -> str:
    given = values.get(name, [])
    if len(given) != 1:
        raise BadRequestError(f"need {name} exactly once")
    return given[0]


def _number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_MAX_DIGITS):
        raise BadRequestError(f"{name} must be a whole number of at most 18 digits")
    return int(text)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError as error:
        raise BadRequestError("speed must be a number") from error
    if not (math.isfinite(speed) and speed >= 0):
        raise BadRequestError("speed must be finite and not negative")
    return speed
