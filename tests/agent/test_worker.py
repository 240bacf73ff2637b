"""The learner's loop in a thread of the test: what it says over the channel, and to the disk."""

import contextlib
import json
import select
import socket
import threading

import numpy as np
import pytest
from make import step

from agent.act.network import fresh_parameters
from agent.learn.checkpoint import load, save
from agent.learn.replay import Replay
from agent.learn.sac import Learner
from agent.learn.state import capture
from agent.learn.wire import Channel, Kind, pack_parameters, pack_step, unpack_parameters
from agent.learn.worker import Worker
from agent.settings import LearnSettings, ProcessSettings

SETTINGS = LearnSettings(train_steps=4, burn_in_steps=2, batch_chunks=2, min_steps=8)
PENDING = 1 << 22


@contextlib.contextmanager
def working(settings=SETTINGS, **process):
    """Our end of a worker's channel; the worker has saved and left once this is over."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, PENDING)
    worker = Worker(Channel(theirs, PENDING), settings, ProcessSettings(**process))
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield channel
    finally:
        channel.close()
        thread.join(60.0)
        theirs.close()
    assert not thread.is_alive()


def frames(channel):
    """What the worker says, as it says it."""
    while any(select.select([channel], [channel] if channel.pending else [], [], 60.0)):
        channel.flush()
        yield from channel.receive()
    pytest.fail("nothing came")


def reports(channel):
    return (json.loads(payload) for kind, payload in frames(channel) if kind is Kind.REPORT)


def trained(path):
    """A checkpoint of a learner that has learnt something; its actor."""
    rng = np.random.default_rng(0)
    learner = Learner(SETTINGS, Replay(64, 8))
    for number in range(20):
        learner.replay.add(step(number, 4, rng))
    assert learner.update(3) is not None
    save(capture(learner), path)
    return learner.actor_arrays()


def test_a_resumed_actor_is_published_with_a_report_before_any_step(tmp_path):
    path = tmp_path / "learner.safetensors"
    actor = trained(path)
    with working(checkpoint=path) as channel:
        said = frames(channel)
        kind, payload = next(said)
        assert kind is Kind.PARAMETERS
        for name, array in unpack_parameters(payload).items():
            assert np.array_equal(array, actor[name])
        kind, payload = next(said)
        assert kind is Kind.REPORT
        assert json.loads(payload)["updates"] == 3


def test_reports_come_without_updates_and_tell_of_refused_steps():
    with working() as channel:
        said = reports(channel)
        assert [next(said)["updates"] for _ in range(2)] == [0, 0]
        channel.send(Kind.STEP, pack_step(step(0, 65, np.random.default_rng(0))))
        assert next(report for report in said if report["replay_refused"])["replay_refused"] == 1


def test_a_bad_checkpoint_is_moved_aside_before_its_name_is_saved_to(tmp_path):
    path, bad = tmp_path / "learner.safetensors", tmp_path / "learner.safetensors.bad"
    path.write_bytes(b"new garbage")
    bad.write_bytes(b"old garbage")
    rng = np.random.default_rng(0)
    with working(checkpoint=path, publish_s=0.0) as channel:
        said = reports(channel)
        assert "truncated" in (problem := next(said)["problem"])
        assert bad.name in problem
        assert bad.read_bytes() == b"new garbage"
        for number in range(20):
            channel.send(Kind.STEP, pack_step(step(number, 4, rng)))
        learnt = next(report for report in said if report["updates"])
        assert learnt["problem"] == problem
    assert load(path).meta["updates"] > 0
    assert bad.read_bytes() == b"new garbage"


def test_a_bad_checkpoint_that_cannot_be_moved_is_not_overwritten(tmp_path):
    path, bad = tmp_path / "learner.safetensors", tmp_path / "learner.safetensors.bad"
    path.write_bytes(b"garbage")
    bad.mkdir()
    rng = np.random.default_rng(0)
    with working(checkpoint=path, publish_s=0.0) as channel:
        said = reports(channel)
        assert "nothing is saved" in next(said)["problem"]
        for number in range(20):
            channel.send(Kind.STEP, pack_step(step(number, 4, rng)))
        assert next(report for report in said if report["updates"])
    assert path.read_bytes() == b"garbage"


def begin(channel, actor):
    """Send `actor` and steps enough to learn from; the parameters that come back."""
    channel.send(Kind.PARAMETERS, pack_parameters(actor))
    rng = np.random.default_rng(0)
    for number in range(20):
        channel.send(Kind.STEP, pack_step(step(number, 4, rng)))
    return (
        unpack_parameters(payload) for kind, payload in frames(channel) if kind is Kind.PARAMETERS
    )


def furthest(one, other):
    return max(np.abs(one[name] - other[name]).max() for name in other)


def test_a_learner_begins_with_the_parameters_it_is_sent_first():
    sent = fresh_parameters(5)
    with working() as channel:
        # A few updates move each parameter by about the learning rate, another seed by far more.
        assert furthest(next(begin(channel, sent)), sent) < 0.03
    assert furthest(fresh_parameters(0), sent) > 0.1


def test_a_resumed_learner_keeps_its_actor_whatever_it_is_sent(tmp_path):
    path = tmp_path / "learner.safetensors"
    actor = trained(path)
    with working(checkpoint=path, publish_s=0.0) as channel:
        published = begin(channel, fresh_parameters(5))
        assert furthest(next(published), actor) == 0.0
        # The next set comes after what was sent.
        assert furthest(next(published), actor) < 0.03


def test_parameters_that_are_not_finite_do_not_end_the_learner():
    broken = {name: array * np.nan for name, array in fresh_parameters(0).items()}
    with working() as channel:
        channel.send(Kind.PARAMETERS, pack_parameters(broken))
        report = next(report for report in reports(channel) if report["problem"])
        assert "not finite" in report["problem"]
