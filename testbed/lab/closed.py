"""Closed-loop load: so many clients a server, each with its next request after the last answer.

Lives here: the clients. Never here: what is asked for and why (`warm`, `calibrate`). It finds out
what servers can do; what they do to clients who do not wait is `testbed.load`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

_ANSWER_S = 60.0
_OK = (b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")


@dataclass
class Tally:
    """answered: whole answers with status 200. last_error: the last of `failed`."""

    answered: int = 0
    failed: int = 0
    last_error: str = ""


async def ask(host: str, port: int, targets: Iterator[str], clients: int, tally: Tally) -> None:
    """GET the targets, each once, in order, by that many clients, until there are no more.

    `tally` counts what has come so far.
    """
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(host, port, targets, tally))


async def _client(host: str, port: int, targets: Iterator[str], tally: Tally) -> None:
    for target in targets:
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await _get(host, port, target)
        except (OSError, TimeoutError) as error:
            tally.failed += 1
            tally.last_error = f"{target}: {error!r}"
            continue
        if answer.startswith(_OK):
            tally.answered += 1
        else:
            tally.failed += 1
            tally.last_error = f"{target}: {answer[:80]!r}"


async def _get(host: str, port: int, target: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {target} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return await reader.read(-1)
    finally:
        writer.close()
