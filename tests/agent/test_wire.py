import socket

import numpy as np
import pytest
from make import step

from agent.act.network import fresh_parameters
from agent.learn.wire import (
    HEADER,
    Channel,
    ChannelClosed,
    Kind,
    pack_parameters,
    pack_step,
    unpack_parameters,
    unpack_step,
)


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    channels = Channel(one, 1 << 20), Channel(other, 1 << 20)
    yield channels
    for channel in channels:
        channel.close()


def test_steps_and_parameters_arrive_as_they_were_sent(pair):
    rng = np.random.default_rng(0)
    sent, parameters = step(41, 7, rng), fresh_parameters(0)
    pair[0].send(Kind.STEP, pack_step(sent))
    pair[0].send(Kind.PARAMETERS, pack_parameters(parameters))
    frames = []
    while len(frames) < 2:
        pair[0].flush()
        frames += pair[1].receive()
    got = unpack_step(frames[0][1])
    assert got.number == 41
    for name in ("identity", "features", "service", "hidden", "u", "reward"):
        assert np.array_equal(getattr(got, name), getattr(sent, name))
    for name, array in unpack_parameters(frames[1][1]).items():
        assert np.array_equal(array, parameters[name])


def test_a_peer_that_does_not_read_costs_frames_and_never_waits(pair):
    payload = bytes(200_000)
    accepted = sum(pair[0].send(Kind.STEP, payload) for _ in range(100))
    assert 5 <= accepted < 20
    assert pair[0].dropped == 100 - accepted
    frames = []
    while len(frames) < accepted:
        pair[0].flush()
        frames += pair[1].receive()
    assert all(frame == (Kind.STEP, payload) for frame in frames)


def test_frames_before_the_end_of_stream_are_still_delivered(pair):
    pair[0].send(Kind.REPORT, b"{}")
    pair[0].close()
    assert pair[1].receive() == [(Kind.REPORT, b"{}")]
    with pytest.raises(ChannelClosed):
        pair[1].receive()


@pytest.mark.parametrize("header", [HEADER.pack(1 << 30, 1), HEADER.pack(1, 99)])
def test_a_peer_that_sends_nonsense_is_cut_off(header):
    one, other = socket.socketpair()
    with one:
        channel = Channel(other, 1 << 20)
        one.sendall(header)
        with pytest.raises(ChannelClosed, match="bad frame"):
            channel.receive()
        channel.close()
