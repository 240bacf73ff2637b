"""AWCMP's rule, and asking: a server that answers, one that does not."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from testbed.experiments.asking import Asker, AskError, Busy
from testbed.experiments.awcmp import BOUND, GAIN, GAIN_PERIOD_S, ask_all, corrected
from testbed.processes import free_ports
from testbed.server.backend import Settings
from testbed.server.server import listening
from testbed.sim.policies import ActiveProbing
from tests.testbed.loops import on_uvloop


def test_the_busier_server_loses_weight_until_all_are_alike():
    log_w = np.zeros(3)
    moved = corrected(log_w, np.array([9.0, 4.0, 2.0]))
    assert moved[0] < moved[1] < moved[2]
    assert moved.mean() == pytest.approx(0.0)
    np.testing.assert_allclose(corrected(moved, np.array([5.0, 5.0, 5.0])), moved)


def test_the_rule_is_the_simulators_however_often_servers_are_asked():
    assert GAIN == ActiveProbing.gain
    busy = np.array([9.0, 4.0, 2.0])
    once = corrected(np.zeros(3), busy)
    np.testing.assert_allclose(once, corrected(np.zeros(3), busy, GAIN_PERIOD_S))
    often = np.zeros(3)
    for _ in range(5):
        often = corrected(often, busy, GAIN_PERIOD_S / 5)
    # A step leaves 0.8 of the way: five of a fifth of the time together move by little more.
    np.testing.assert_allclose(often, once, rtol=0.12)


def test_weights_stay_within_their_bounds():
    log_w = np.zeros(2)
    for _ in range(1000):
        log_w = corrected(log_w, np.array([32.0, 0.0]))
    assert np.abs(log_w).max() <= BOUND


def test_who_does_not_answer_keeps_its_place_among_those_that_are_alike():
    log_w = np.array([0.3, -0.3, 0.0])
    assert np.array_equal(corrected(log_w, np.full(3, np.nan)), log_w)
    np.testing.assert_allclose(corrected(log_w, np.array([4.0, 4.0, np.nan])), log_w)


def until_busy(asker: Asker) -> Busy:
    until_s = time.monotonic() + 60
    while not (found := asker.ask()).jobs and time.monotonic() < until_s:
        time.sleep(0.01)
    return found


@on_uvloop
async def test_a_server_tells_how_busy_it_is():
    async with listening(Settings(), "127.0.0.1", 0) as server:
        asker = Asker("127.0.0.1", server.port)
        first = await asyncio.to_thread(asker.ask)
        size = asker.wire_bytes
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /?work_us=60000000 HTTP/1.0\r\n\r\n")
        # Over another connection: it may be heard first.
        second = await asyncio.to_thread(until_busy, asker)
        nobody = Asker("127.0.0.1", free_ports(1)[0])
        found = await asyncio.to_thread(ask_all, [asker, nobody])
        asker.close()
        writer.close()
    assert (first.jobs, second.jobs) == (0, 1)
    assert size > 100
    assert asker.wire_bytes >= 2 * size
    assert found[0] == 1
    assert np.isnan(found[1])


def test_nobody_there_is_an_error_that_names_the_address():
    port = free_ports(1)[0]
    with pytest.raises(AskError, match=f"127.0.0.1:{port}"):
        Asker("127.0.0.1", port).ask()
