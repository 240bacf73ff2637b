"""Scenario 10: a crowd behind a proxy, whose headers come in pieces; among them hostile ones."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld
import pytest
from crowd import PATIENCE_S, Crowd
from lbd_backends import Backend, echo
from lbd_client import served

from config.address import Address
from lbd.wire import proxy_v1, proxy_v2
from lbd.wire.endpoint import Endpoint
from lbd.wire.tlv import Tlv

pytestmark = pytest.mark.scenario
Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
UNIQUE_ID = 0x05

HOSTILE = {
    "no header": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "line too long": b"PROXY TCP4 " + b"1" * 200,
    "line of nonsense": b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\nbody",
    "header too long": proxy_v2.SIGNATURE + b"\x21\x11\xff\xff" + bytes(4000),
    "vector too long": proxy_v2.SIGNATURE + b"\x21\x11\x00\x0f" + bytes(12) + b"\x05\x00\xff",
    "wrong version": proxy_v2.SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
}


def header(draw: random.Random) -> bytes:
    """Of either version and family, with vectors or without."""
    host, family = draw.choice([("192.0.2.", socket.AF_INET), ("2001:db8::", socket.AF_INET6)])
    ends = [Endpoint(family, f"{host}{draw.randrange(1, 255)}", draw.randrange(1, 65536))] * 2
    if draw.random() < 0.5:
        return proxy_v1.build(*ends)
    vectors = [Tlv(UNIQUE_ID, draw.randbytes(draw.choice([1, 128])))] * draw.choice([0, 1, 20])
    return proxy_v2.build(*ends, vectors, draw.random() < 0.5)


async def client(address: Address, number: int, crowd: Crowd) -> None:
    draw = random.Random(number)
    body = draw.randbytes(draw.choice([1, 100, 5000, 40_000]))
    told = header(draw) + body
    cuts = sorted(draw.sample(range(1, 60), draw.choice([0, 1, 5])))
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                for start, end in zip([0, *cuts], [*cuts, len(told)], strict=True):
                    writer.write(told[start:end])
                    await writer.drain()
                    # So that the next piece is a segment of its own.
                    await asyncio.sleep(0.001 if cuts else 0)
                writer.write_eof()
                got = await reader.read(-1)
            finally:
                writer.transport.abort()
    except OSError:
        crowd.failed += 1
        return
    if got == body:
        crowd.whole += 1
        crowd.bytes_compared += len(body)
    else:
        crowd.wrong += 1


async def refused(address: Address, data: bytes) -> bool:
    """Whether the connection is ended without a byte."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(data)
                return await reader.read(1) == b""
            finally:
                writer.transport.abort()
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "flows", [200, pytest.param(4000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_headers_in_pieces_pass_and_hostile_ones_reach_no_backend(
    daemon: Start, backend: Make, capsys: pytest.CaptureFixture[str], flows: int
) -> None:
    server = backend(echo)
    service = ld.service([server.address], proxy_in={"trust": ["127.0.0.0/8"]})
    strict = ld.service([server.address], proxy_in={"trust": ["192.0.2.0/24"]})
    daemon(service, strict, workers=2)
    address, untrusting = Address.parse(service["listen"]), Address.parse(strict["listen"])
    crowd, turned_away = Crowd(), 0
    gate = asyncio.Semaphore(30)

    async def one(number: int) -> None:
        nonlocal turned_away
        async with gate:
            await client(address, number, crowd)
            if number % 10 == 0:
                data = list(HOSTILE.values())[number // 10 % len(HOSTILE)]
                assert await refused(address, data)
                assert await refused(untrusting, header(random.Random(number)))
                turned_away += 2

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(flows)))

    asyncio.run(all_of_them())
    with capsys.disabled():
        print(f"\n[behind PROXY headers: {crowd}; {turned_away} hostile ones refused]")
    assert (crowd.whole, crowd.failed, crowd.wrong) == (flows, 0, 0)
    assert server.accepted == flows
    served(service["name"], flows)
    counts: dict[str, Any] = ld.scalars(service["name"])
    told = counts["proxy_malformed_total"] + counts["proxy_oversized_total"]
    assert told == turned_away // 2
    assert ld.scalars(strict["name"])["proxy_untrusted_total"] == turned_away // 2
