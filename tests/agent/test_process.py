"""The learner as a real process; waits are on what it does, with a deadline, not on time."""

import os
import pickle
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from make import step

from agent.act.network import checked, fresh_parameters
from agent.learn.checkpoint import load
from agent.learn.process import LearnerProcess
from agent.settings import LearnSettings, ProcessSettings

SETTINGS = LearnSettings(train_steps=4, burn_in_steps=2, batch_chunks=2, min_steps=8)


def until(condition, timeout_s=90.0):
    end_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "nothing came"
        select.select([], [], [], 0.01)
    return value


def feed(learner, first, count, seed=0):
    rng = np.random.default_rng(seed)
    return sum(learner.push(step(number, 4, rng)) for number in range(first, first + count))


def test_it_learns_elsewhere_sends_parameters_and_saves_at_the_end(tmp_path):
    path = tmp_path / "learner.safetensors"
    learner = LearnerProcess(SETTINGS, ProcessSettings(checkpoint=path, publish_s=0.0))
    try:
        assert feed(learner, 0, 20) == 20
        parameters = until(learner.poll)
        assert checked(parameters)
        until(lambda: learner.poll() is None and learner.report.get("updates"))
        assert os.getpriority(os.PRIO_PROCESS, learner.pid) >= 10
    finally:
        learner.close(30.0)
    assert load(path).meta["updates"] > 0


def test_a_killed_learner_is_noticed_counted_and_started_again_after_a_pause():
    now_s = [0.0]
    initial = fresh_parameters(3)
    learner = LearnerProcess(
        SETTINGS, ProcessSettings(publish_s=0.0), initial, clock_s=lambda: now_s[0]
    )
    try:
        first = learner.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: learner.poll() is None and not learner.alive)
        assert learner.counters.crashes == 1
        assert not learner.push(step(0, 4, np.random.default_rng(0)))
        assert learner.counters.dropped == 1
        now_s[0] = 1.9
        learner.poll()
        assert not learner.alive, "too early"
        now_s[0] = 2.1
        until(lambda: learner.poll() is None and learner.alive)
        assert learner.pid != first
        assert feed(learner, 1, 20) == 20
        assert until(learner.poll)
    finally:
        learner.close(30.0)
    assert learner.counters.starts == 2


def test_it_dies_with_its_parent(tmp_path):
    code = (
        "import os\n"
        "from agent.learn.process import LearnerProcess\n"
        "from agent.settings import LearnSettings, ProcessSettings\n"
        "if __name__ == '__main__':\n"
        "    learner = LearnerProcess(LearnSettings(), ProcessSettings())\n"
        "    print(learner.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env)
    child = int(done.stdout)

    def gone():
        try:
            with open(f"/proc/{child}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone)


@pytest.mark.parametrize("content", [b"garbage", b""])
def test_a_bad_checkpoint_is_reported_and_learning_starts_anew(tmp_path, content):
    path = tmp_path / "learner.safetensors"
    path.write_bytes(content)
    learner = LearnerProcess(SETTINGS, ProcessSettings(checkpoint=path, publish_s=0.0))
    try:
        feed(learner, 0, 20)
        until(lambda: learner.poll() is None and learner.report)
        assert "truncated or not a checkpoint" in learner.report["problem"]
    finally:
        learner.close(30.0)


def test_what_a_new_process_is_given_fits_a_pipe_that_no_one_reads_yet(monkeypatch):
    given = []
    learner = LearnerProcess(SETTINGS, ProcessSettings(restart_first_s=0.0), fresh_parameters(0))
    make = learner._context.Process

    def process(**kwargs):
        given.append(kwargs["args"])
        return make(**kwargs)

    monkeypatch.setattr(learner._context, "Process", process)
    try:
        os.kill(learner.pid, signal.SIGKILL)
        until(lambda: learner.poll() is None and learner.counters.starts == 2)
        ((_, *settings),) = given
        assert len(pickle.dumps(settings)) < select.PIPE_BUF
    finally:
        learner.close(30.0)


def test_a_signal_to_the_whole_group_leaves_the_learner_to_save(tmp_path):
    path = tmp_path / "learner.safetensors"
    learner = LearnerProcess(SETTINGS, ProcessSettings(checkpoint=path, publish_s=0.0))
    try:
        feed(learner, 0, 20)
        assert until(learner.poll)
        before = learner.counters.received
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(learner.pid, number)
        feed(learner, 20, 20)
        until(lambda: learner.poll() is None and learner.counters.received > before)
        assert learner.counters.crashes == 0
        assert not path.exists()
    finally:
        learner.close(30.0)
    assert load(path).meta["updates"] > 0


def test_a_parent_that_forgets_to_close_still_ends(tmp_path):
    code = (
        "import select\n"
        "from agent.learn.process import LearnerProcess\n"
        "from agent.settings import LearnSettings, ProcessSettings\n"
        "if __name__ == '__main__':\n"
        "    learner = LearnerProcess(LearnSettings(), ProcessSettings())\n"
        "    while not learner.report:\n"
        "        select.select([learner._channel], [], [])\n"
        "        learner.poll()\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, script], env=env, timeout=120, check=False)
    assert done.returncode == 0
