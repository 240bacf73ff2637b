"""One exchange with a backend: an active check, or the question to its agent.

Lives here: connections of the supervisor's own, each bounded in time and bytes. Never here: what
the result means (`lbd.health.verdict`, `lbd.health.feedback`).
A peer's fault is a result, not an exception.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from config.address import Address
from config.health import Check, Feedback, Probe
from lbd.health.feedback import MAX_BYTES as FEEDBACK_BYTES
from lbd.sockets import OWN_LIMITS
from lbd.wire.proxy import OF_NOBODY

Done = Callable[[bytes], bool]

ANSWER_BYTES: Final = 4096
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")


async def check(rule: Check, address: Address) -> str:
    """Why the backend at `address` failed, `""` if it passed.

    Raises OSError where it was not tried, for this machine lacks the means (`OWN_LIMITS`).
    """
    if rule.port is not None and address.kind != "unix":
        address = Address("tcp", address.host, rule.port)
    try:
        async with asyncio.timeout(rule.timeout_ms * 1e-3):
            return await _exchange(rule, address)
    except TimeoutError:
        return f"no answer in {rule.timeout_ms} ms"
    except OSError as error:
        if error.errno in OWN_LIMITS:
            raise
        return error.strerror or str(error)


async def ask(rule: Feedback, address: Address) -> bytes | None:
    """What the agent on the backend's host says; None where it says nothing in time."""
    try:
        async with asyncio.timeout(rule.timeout_ms * 1e-3):
            reader, writer = await _connect(rule, Address("tcp", address.host, rule.port))
            try:
                writer.write(rule.send.encode())
                return await _until(reader, lambda got: b"\n" in got, FEEDBACK_BYTES) or None
            finally:
                writer.transport.abort()
    except OSError:  # TimeoutError too
        return None


async def _exchange(rule: Check, address: Address) -> str:
    reader, writer = await _connect(rule, address)
    try:
        if rule.proxy is not None:
            writer.write(OF_NOBODY[rule.proxy])
        if rule.kind == "tcp":
            return ""
        if rule.kind == "expect":
            writer.write(rule.send.encode())
            wanted = re.compile(rule.expect.encode())
            got = await _until(reader, lambda got: wanted.search(got) is not None, ANSWER_BYTES)
            return "" if wanted.search(got) else f"the answer does not contain {rule.expect!r}"
        host = rule.host or _host(address)
        writer.write(
            f"GET {rule.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lbd\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        got = await _until(reader, lambda got: _STATUS.match(got) is not None, ANSWER_BYTES)
        found = _STATUS.match(got)
        if found is None:
            return "the answer is not HTTP"
        status = int(found[1])
        return "" if rule.status_min <= status <= rule.status_max else f"status {status}"
    finally:
        # At once: a check waits for nobody's farewell.
        writer.transport.abort()


def _host(address: Address) -> str:
    """As a Host header has it (RFC 9110 section 7.2, RFC 6874 section 1): in brackets, no zone."""
    host, _, _ = address.host.partition("%")
    return f"[{host}]" if ":" in host else host or "localhost"


async def _connect(
    rule: Probe, address: Address
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.kind == "unix":
        return await asyncio.open_unix_connection(address.path)
    local = (rule.source, 0) if rule.source else None
    return await asyncio.open_connection(address.host, address.port, local_addr=local)


async def _until(reader: asyncio.StreamReader, done: Done, most: int) -> bytes:
    """What comes until `done` says so, the end of file, or `most` bytes."""
    got = b""
    while len(got) < most and not done(got):
        part = await reader.read(most - len(got))
        if not part:
            break
        got += part
    return got
