"""The load generator against targets whose behaviour is known."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from testbed.load.arrivals import Plan
from testbed.load.generator import LoadGenerator, Target
from testbed.load.response import ResponseReader
from testbed.load.result import Outcome, Result
from testbed.processes import free_ports
from testbed.server.backend import Fault, Settings
from testbed.server.server import listening
from tests.testbed.loops import on_uvloop


def plan_of(count: int, gap_s: float = 0.002, query: str = "/?work_us=0") -> Plan:
    return Plan(np.arange(count) * gap_s, [query] * count, max(count, 1) * gap_s)


async def load(port: int, plan: Plan, **target: object) -> Result:
    # Most tests are not about lag, and the machine may be slow.
    bounds = {"timeout_s": 20.0, "lag_max_s": 10.0, **target}
    return await LoadGenerator(plan, Target("127.0.0.1", port, **bounds)).run()


@asynccontextmanager
async def scripted(answer: bytes) -> AsyncIterator[int]:
    """A target that says the same to each request and ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def outcomes(result: Result) -> set[int]:
    return set(result.table["outcome"].tolist())


@pytest.mark.parametrize("keep_alive", [0, 3])
@on_uvloop
async def test_latency_is_that_of_the_target(keep_alive):
    async with listening(Settings(cpus=64, in_service=64), "127.0.0.1", 0) as server:
        result = await load(
            server.port, plan_of(30, query="/?work_us=20000"), keep_alive=keep_alive
        )
    table = result.table
    assert outcomes(result) == {Outcome.OK}
    assert result.latency_s().min() >= 0.02
    assert np.all(table["planned_ns"] <= table["handled_ns"])
    assert np.all(table["handled_ns"] <= table["sent_ns"])
    assert np.all(table["sent_ns"] < table["first_byte_ns"])
    assert np.all(table["first_byte_ns"] <= table["done_ns"])
    assert np.all(table["bytes"] > 100)
    summary = result.summary()
    assert (summary.requests, summary.succeeded, summary.failures) == (30, 30, {})
    assert summary.believable
    assert summary.latency.p50_s >= 0.02


@on_uvloop
async def test_a_stall_is_in_the_latency_of_every_request_planned_during_it():
    async with listening(Settings(cpus=64, in_service=64, speed=0.0), "127.0.0.1", 0) as server:
        released_ns = 0

        def release() -> None:
            nonlocal released_ns
            released_ns = time.monotonic_ns()
            server.backend.set_speed(1.0)

        asyncio.get_running_loop().call_later(0.3, release)
        # One connection: a closed loop would have sent one request and then waited.
        target = Target("127.0.0.1", server.port, keep_alive=1, lag_max_s=10.0)
        generator = LoadGenerator(plan_of(50, 0.004, "/?work_us=1"), target)
        result = await generator.run()
    assert outcomes(result) == {Outcome.OK}
    stalled_ns = released_ns - generator._start_ns - result.table["planned_ns"]
    assert np.all(result.latency_s() * 1e9 >= stalled_ns)
    waited_ns = result.table["sent_ns"] - result.table["planned_ns"]
    assert np.all(waited_ns[1:] >= stalled_ns[1:])
    assert result.summary().pool_wait.max_s > 0


@on_uvloop
async def test_a_refused_connection_is_refused():
    result = await load(free_ports(1)[0], plan_of(5))
    assert result.failures() == {"refused": 5}
    assert np.all(result.table["first_byte_ns"] == -1)
    assert np.isnan(result.summary().latency.mean_s)
    assert result.latency_s(failure_s=40.0).tolist() == [40.0] * 5


@pytest.mark.parametrize("keep_alive", [0, 2])
@on_uvloop
async def test_a_reset_connection_is_reset(keep_alive):
    async with listening(Settings(fault=Fault.RESET), "127.0.0.1", 0) as server:
        result = await load(server.port, plan_of(8), keep_alive=keep_alive)
    assert result.failures() == {"reset": 8}


@pytest.mark.parametrize("keep_alive", [0, 2])
@on_uvloop
async def test_a_target_that_never_answers_is_a_timeout_from_the_planned_time(keep_alive):
    async with listening(Settings(fault=Fault.BLACKHOLE), "127.0.0.1", 0) as server:
        result = await load(server.port, plan_of(8), keep_alive=keep_alive, timeout_s=0.1)
    assert result.failures() == {"timeout": 8}
    assert result.latency_s(failure_s=0.1).min() == 0.1
    assert np.all(result.table["done_ns"] - result.table["planned_ns"] >= 0.1e9)


@on_uvloop
async def test_connects_that_hang_are_timeouts():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # With its queue full a listener drops further connection requests.
        result = await load(full.getsockname()[1], plan_of(6), timeout_s=0.2)
    assert result.failures() == {"timeout": 6}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "bad-status"),
        (b"no response at all\r\n\r\n", "bad-status"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad-status"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "truncated"),
        (b"HTTP/1.1 200", "truncated"),
        (b"", "truncated"),
        (b"HTTP/1.0 200 OK\r\n\r\nup to the end", None),
    ],
)
@on_uvloop
async def test_answers_are_judged(answer, outcome):
    async with scripted(answer) as port:
        result = await load(port, plan_of(3))
    assert result.failures() == ({outcome: 3} if outcome else {})
    if outcome is None:
        assert np.all(result.table["bytes"] == len(answer))


@on_uvloop
async def test_jobs_beyond_the_backlog_are_reset_and_the_others_are_not_touched():
    settings = Settings(in_service=1, backlog=1, speed=0.0)
    async with listening(settings, "127.0.0.1", 0) as server:
        plan = Plan(np.zeros(20), ["/?work_us=1000"] * 20, 1.0)
        run = asyncio.create_task(load(server.port, plan))
        async with asyncio.timeout(60):
            while server.backend.stats()["rejected"] != 18:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        server.backend.set_speed(1.0)
        result = await run
    assert result.summary().succeeded == 2
    assert result.failures() == {"reset": 18}


@on_uvloop
async def test_requests_beyond_the_bound_are_not_sent_and_spoil_the_run():
    async with listening(Settings(fault=Fault.BLACKHOLE), "127.0.0.1", 0) as server:
        plan = Plan(np.zeros(10), ["/?work_us=0"] * 10, 1.0)
        result = await load(server.port, plan, in_flight_max=4, timeout_s=0.2)
    assert result.failures() == {"timeout": 4, "not-sent": 6}
    assert not result.believable
    assert result.why_not_believable() == ("6 requests were not sent",)


@on_uvloop
async def test_a_late_generator_says_so():
    async with listening(Settings(), "127.0.0.1", 0) as server:
        run = asyncio.create_task(load(server.port, plan_of(500), lag_max_s=0.1))
        async with asyncio.timeout(60):
            while not server.backend.stats()["finished"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        time.sleep(0.2)  # noqa: ASYNC251  the point of the test: the loop is blocked
        result = await run
    assert outcomes(result) == {Outcome.OK}
    assert result.lag_s().max() >= 0.15
    assert result.latency_s().max() >= 0.15
    assert "the generator was late" in result.why_not_believable()[0]
    assert not result.summary().believable


@on_uvloop
async def test_a_target_that_does_not_close_is_closed_by_the_client():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        plan = Plan(np.array([0.0, 2.5]), ["/"] * 2, 3.0)
        port = server.sockets[0].getsockname()[1]
        # The second request has room only if the first one's connection is gone by then.
        result = await load(port, plan, in_flight_max=1, timeout_s=1.2)
    assert result.table["outcome"].tolist() == [Outcome.OK, Outcome.OK]


@on_uvloop
async def test_a_pool_opens_no_more_connections_than_it_may():
    async with listening(Settings(cpus=64, in_service=64), "127.0.0.1", 0) as server:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(server.backend.clients))
                await asyncio.sleep(0.001)

        watcher = asyncio.create_task(watch())
        plan = Plan(np.zeros(40), ["/?work_us=5000"] * 40, 1.0)
        result = await load(server.port, plan, keep_alive=4)
        watcher.cancel()
    assert outcomes(result) == {Outcome.OK}
    assert 1 <= most <= 4


@on_uvloop
async def test_cancelling_a_run_leaves_no_connection():
    async with listening(Settings(fault=Fault.BLACKHOLE), "127.0.0.1", 0) as server:
        generator = LoadGenerator(plan_of(200), Target("127.0.0.1", server.port, keep_alive=5))
        run = asyncio.create_task(generator.run())
        async with asyncio.timeout(60):
            while len(server.backend.clients) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            while server.backend.clients:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@on_uvloop
async def test_an_empty_plan_is_over_at_once():
    result = await load(1, plan_of(0))
    assert len(result.table) == 0
    assert result.summary().why_not == ("no requests",)


@on_uvloop
async def test_a_result_is_saved_whole(tmp_path):
    result = await load(free_ports(1)[0], plan_of(3))
    result.save(tmp_path / "run.npz")
    again = Result.load(tmp_path / "run.npz")
    assert np.array_equal(again.table, result.table)
    assert (again.cpu_s, again.lag_max_s) == (result.cpu_s, result.lag_max_s)
    np.savez(tmp_path / "other.npz", table=np.zeros(3))
    with pytest.raises(ValueError, match="not the result"):
        Result.load(tmp_path / "other.npz")


def test_a_response_may_come_in_any_pieces():
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    for size in range(1, len(text)):
        reader = ResponseReader()
        for first in range(0, len(text), size):
            assert not reader.complete
            reader.feed(text[first : first + size])
        assert (reader.complete, reader.status, reader.keep_alive) == (True, 200, True)
        assert reader.size_bytes == len(text)
    reader = ResponseReader()
    reader.feed(text + b"HTTP")
    assert reader.complete
    assert not reader.keep_alive
