"""The backend over real sockets: what a client sees. Only lower bounds on real time are exact."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from testbed.server.backend import Fault, Settings
from testbed.server.server import Running, listening
from tests.testbed.loops import on_uvloop

# Far beyond anything that a slow machine does, far below the test's own timeout.
PATIENCE_S = 60
WORK_50_MS = b"GET /?work_us=50000 HTTP/1.1\r\n\r\n"
FOREVER = b"GET /?work_us=3600000000 HTTP/1.1\r\n\r\n"


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Running) -> Client:
        return cls(*await asyncio.open_connection(server.host, server.port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head, body of the next response."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return int(head.split()[1]), head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the server does in its own time."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  the server has no event for it
            await asyncio.sleep(0.001)


async def ask(server: Running, request: bytes) -> tuple[int, bytes, bytes]:
    client = await Client.connect(server)
    client.send(request)
    try:
        return await client.answer()
    finally:
        client.close()


def serving(**settings: object):
    return listening(Settings(**settings), "127.0.0.1", 0)


@on_uvloop
async def test_a_single_job_takes_its_work_over_the_speed():
    async with serving(speed=0.5, body_bytes=7) as server:
        start_s = time.monotonic()
        status, _, body = await ask(server, WORK_50_MS)
        assert time.monotonic() - start_s >= 0.1
        assert (status, body) == (200, b"xxxxxxx")
        stats = server.backend.stats()
        assert stats["finished"] == 1
        # The simulated time is exact whatever the machine does.
        assert stats["busy_cpu_s"] == pytest.approx(0.1)


@on_uvloop
async def test_iterations_are_work():
    async with serving(iterations_per_s=1e6) as server:
        start_s = time.monotonic()
        status, _, _ = await ask(server, b"GET /dummy.php/?n=30000 HTTP/1.0\r\n\r\n")
        assert status == 200
        assert time.monotonic() - start_s >= 0.03


@on_uvloop
async def test_two_jobs_share_one_cpu():
    async with serving(cpus=1) as server:
        start_s = time.monotonic()
        await asyncio.gather(*(ask(server, WORK_50_MS) for _ in range(2)))
        assert time.monotonic() - start_s >= 0.1
        assert server.backend.stats()["busy_cpu_s"] == pytest.approx(0.1)


@on_uvloop
async def test_a_job_beyond_the_backlog_is_reset():
    async with serving(in_service=1, backlog=1) as server:
        inside = [await Client.connect(server) for _ in range(2)]
        for count, client in enumerate(inside, start=1):
            client.send(FOREVER)
            await until(
                lambda count=count: (
                    server.backend.stats()["in_service"] + server.backend.stats()["backlog"]
                    == count
                )
            )
        with pytest.raises(ConnectionResetError):
            await ask(server, WORK_50_MS)
        stats = server.backend.stats()
        assert (stats["in_service"], stats["backlog"], stats["rejected"]) == (1, 1, 1)
        for client in inside:
            client.close()


@on_uvloop
async def test_the_speed_changes_in_the_middle_of_a_job():
    async with serving(speed=0.0) as server:
        client = await Client.connect(server)
        client.send(WORK_50_MS)
        await until(lambda: server.backend.stats()["in_service"] == 1)
        status, _, _ = await ask(server, b"POST /control?speed=1000 HTTP/1.1\r\n\r\n")
        assert status == 200
        assert (await client.answer())[0] == 200
        client.close()


@on_uvloop
async def test_stats_are_json():
    async with serving(cpus=3) as server:
        status, head, body = await ask(server, b"GET /stats HTTP/1.1\r\n\r\n")
        assert status == 200
        assert b"application/json" in head
        stats = json.loads(body)
        assert stats["cpus"] == 3
        assert {"in_service", "backlog", "finished", "rejected", "busy_cpu_s"} <= stats.keys()
        assert stats["utilisation"] == 0


@on_uvloop
async def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order():
    async with serving() as server:
        client = await Client.connect(server)
        client.send(b"GET /?work_us=2000 HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\n")
        client.send(b"GET /?work_us=0 HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert [(await client.answer())[0] for _ in range(3)] == [200, 404, 200]
        assert await client.rest() == b""
        client.close()


@on_uvloop
async def test_many_pipelined_requests_are_all_answered():
    async with serving() as server:
        client = await Client.connect(server)
        count = 6000
        client.send(b"GET /?work_us=0 HTTP/1.1\r\n\r\n" * count)
        for _ in range(count):
            assert (await client.answer())[0] == 200
        assert server.backend.stats()["finished"] == count
        client.close()


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /?work_us=0 HTTP/1.0\r\n\r\n",
        b"GET /?work_us=0 HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
@on_uvloop
async def test_the_connection_ends_where_the_client_wants_that(request_text):
    async with serving() as server:
        client = await Client.connect(server)
        client.send(request_text)
        status, head, _ = await client.answer()
        assert status == 200
        assert b"Connection: close" in head
        assert await client.rest() == b""
        client.close()


@on_uvloop
async def test_a_client_that_goes_away_frees_its_place():
    async with serving(in_service=1) as server:
        gone = await Client.connect(server)
        gone.send(FOREVER)
        await until(lambda: server.backend.stats()["in_service"] == 1)
        gone.close()
        await until(lambda: server.backend.stats()["in_service"] == 0)
        assert server.backend.stats()["cancelled"] == 1
        assert (await ask(server, WORK_50_MS))[0] == 200


@on_uvloop
async def test_a_half_closed_client_is_answered_if_so_set():
    async with serving(half_close_is_gone=False) as server:
        client = await Client.connect(server)
        client.send(WORK_50_MS)
        client.writer.write_eof()
        assert (await client.answer())[0] == 200
        assert await client.rest() == b""
        client.close()


@on_uvloop
async def test_a_request_in_pieces_is_one_request():
    async with serving() as server:
        client = await Client.connect(server)
        for byte in b"POST /control?speed=2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab":
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer())[0] == 200
        assert server.backend.stats()["speed"] == 2
        client.close()


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\r\n", b"x" * 9000, b"GET /?work_us=x HTTP/1.1\r\n\r\n"]
)
@on_uvloop
async def test_garbage_is_answered_with_400_and_the_end(garbage):
    async with serving() as server:
        client = await Client.connect(server)
        client.send(garbage)
        assert (await client.answer())[0] == 400
        assert await client.rest() == b""
        assert server.backend.stats()["bad_requests"] == 1
        client.close()


@on_uvloop
async def test_connections_beyond_the_limit_are_reset():
    async with serving(connections_max=1) as server:
        first = await Client.connect(server)
        await until(lambda: server.backend.stats()["connections"] == 1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await ask(server, WORK_50_MS)
        assert server.backend.stats()["connections_refused"] == 1
        first.close()
        await until(lambda: server.backend.stats()["connections"] == 0)


@on_uvloop
async def test_faults_are_switched_on_and_off():
    async with serving(fault=Fault.RESET) as server:
        with pytest.raises(ConnectionResetError):
            await ask(server, WORK_50_MS)
        status, _, _ = await ask(server, b"POST /control?fault=blackhole HTTP/1.1\r\n\r\n")
        assert status == 200
        client = await Client.connect(server)
        client.send(WORK_50_MS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.reader.read(1)
        client.close()
        assert (await ask(server, b"POST /control?fault=odd HTTP/1.1\r\n\r\n"))[0] == 400
        assert (await ask(server, b"POST /control?fault=none HTTP/1.1\r\n\r\n"))[0] == 200
        assert (await ask(server, WORK_50_MS))[0] == 200


@on_uvloop
async def test_the_end_of_the_server_ends_its_connections():
    async with serving() as server:
        client = await Client.connect(server)
        client.send(FOREVER)
        await until(lambda: server.backend.stats()["in_service"] == 1)
    assert await client.rest() == b""
    client.close()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="iterations_per_s"):
        Settings(iterations_per_s=0)
    with pytest.raises(ValueError, match="body_bytes"):
        Settings(body_bytes=-1)
