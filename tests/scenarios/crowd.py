"""Many clients at once, each with a body of its own that must come back whole.

Lives here: the clients and what became of each. Never here: servers, the balancer, judgement.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config.address import Address

PATIENCE_S = 60.0


@dataclass
class Crowd:
    """whole: every byte came back. failed: closed or reset early. wrong: other bytes came back."""

    whole: int = 0
    failed: int = 0
    wrong: int = 0
    bytes_compared: int = 0

    def __str__(self) -> str:
        flows = self.whole + self.failed + self.wrong
        return (
            f"{flows} flows, {self.failed} failed, {self.wrong} with wrong bytes, "
            f"{self.bytes_compared} bytes compared"
        )


async def _client(address: Address, number: int, crowd: Crowd) -> None:
    draw = random.Random(number)
    body = draw.randbytes(draw.choice([1, 100, 5000, 40_000]))
    got = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(body)
                writer.write_eof()
                got = await reader.read(-1)
            finally:
                writer.transport.abort()
    except OSError:  # a time-out too
        crowd.failed += 1
        return
    if got == body:
        crowd.whole += 1
        crowd.bytes_compared += len(body)
    elif body.startswith(got):
        crowd.failed += 1
    else:
        crowd.wrong += 1


async def send(service: dict[str, Any], flows: int, at_once: int, first: int = 0) -> Crowd:
    """`flows` clients, `at_once` of them at any time."""
    crowd, gate = Crowd(), asyncio.Semaphore(at_once)
    address = Address.parse(service["listen"])

    async def one(number: int) -> None:
        async with gate:
            await _client(address, number, crowd)

    await asyncio.gather(*(one(first + number) for number in range(flows)))
    return crowd


async def send_while(service: dict[str, Any], at_once: int, going: Callable[[], bool]) -> Crowd:
    """One client after the other on each of `at_once` lanes, as long as `going()`."""
    crowd, address = Crowd(), Address.parse(service["listen"])

    async def lane(number: int) -> None:
        while going():
            await _client(address, number, crowd)
            number += at_once

    await asyncio.gather(*(lane(number) for number in range(at_once)))
    return crowd
