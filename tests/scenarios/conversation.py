"""Clients that keep their connections open and talk all the time; who loses one comes again.

Lives here: the conversations and what became of each connection. Never here: servers, the balancer,
judgement. Every question has bytes of its own, and must come back as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from config.address import Address

PATIENCE_S = 60.0
MAX_BYTES = 20_000


@dataclass
class Talk:
    """connections: opened. refused: could not be opened. broken: ended by the other side.

    unanswered: kept waiting for PATIENCE_S. wrong: an answer of other bytes.
    """

    connections: int = 0
    refused: int = 0
    broken: int = 0
    unanswered: int = 0
    wrong: int = 0
    answers: int = 0
    bytes_compared: int = 0

    def __str__(self) -> str:
        return (
            f"{self.connections} connections, {self.refused} refused, {self.broken} broken, "
            f"{self.answers} answers, {self.unanswered} missing, {self.wrong} wrong, "
            f"{self.bytes_compared} bytes compared"
        )


@contextlib.asynccontextmanager
async def talking(service: dict[str, Any], clients: int) -> AsyncIterator[Talk]:
    """So many clients talk while the block runs; each ends its connection in order after it."""
    talk, stop = Talk(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(_client(service, random.Random(number), talk, stop))
        try:
            yield talk
        finally:
            stop.set()


async def _client(
    service: dict[str, Any], draw: random.Random, talk: Talk, stop: asyncio.Event
) -> None:
    address = Address.parse(service["listen"])
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            talk.refused += 1
            continue
        talk.connections += 1
        try:
            while not stop.is_set():
                await _ask(reader, writer, draw, talk)
            writer.write_eof()
            await reader.read(-1)
        except (OSError, asyncio.IncompleteReadError):
            talk.broken += 1
        finally:
            writer.transport.abort()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, draw: random.Random, talk: Talk
) -> None:
    question = draw.randbytes(draw.choice([1, 100, MAX_BYTES]))
    writer.write(question)
    try:
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.readexactly(len(question))
    except TimeoutError:
        talk.unanswered += 1
        raise
    if answer != question:
        talk.wrong += 1
    talk.answers += 1
    talk.bytes_compared += len(answer)
    # Others' turn: some flows are at rest at any time.
    await asyncio.sleep(draw.choice([0.0, 0.001, 0.02]))
