"""The agent over real shared memory: what comes and goes on the other side, step by step."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, monotonic_ns, sleep
from typing import ClassVar

import numpy as np
import pytest

from agent import live
from agent.act.network import fresh_parameters
from agent.learn import checkpoint
from agent.learn.process import ProcessCounters
from agent.live import RETRY_NS, ServiceAgent
from agent.observe import FEATURES, Observation
from agent.settings import LearnSettings, ProcessSettings
from agent.steps import Step
from config.schema import Agent as AgentConfig
from config.schema import Config
from shm import layout as lo
from shm import segment
from shm.layout import Layout
from shm.peers import PeersBlock
from shm.region import Region
from shm.weights import WeightReader, Weights
from shm.worker import WorkerBlock


@pytest.fixture
def name() -> Iterator[str]:
    unique = f"live-{os.getpid()}-{secrets.token_hex(3)}"
    yield unique
    segment.unlink(unique)


@pytest.fixture
def frozen(tmp_path: Path) -> AgentConfig:
    path = tmp_path / "policy.safetensors"
    arrays = {f"actor.{key}": array for key, array in fresh_parameters(0).items()}
    checkpoint.save(checkpoint.Saved(arrays, {}), path)
    return AgentConfig(mode="frozen", checkpoint=path)


def make(name: str, peers: int = 0) -> Region:
    """A region with three backends and a worker that has seen a flow of each."""
    region = Region.create(name, Layout(1, 8, 16, peers=peers))
    block = WorkerBlock(region, 0)
    for index in range(3):
        entry = region.add_backend(f"b{index}", f"127.0.0.1:{9001 + index}", 1.0)
        block.adopt(entry.slot, entry.identity)
        block.rows["flows_total"][entry.slot] = 1
        block.sample_duration(entry.slot, monotonic_ns(), (index + 1) * 1_000_000)
    block.publish(monotonic_ns())
    return region


def applied(region: Region, now_ns: int) -> bool:
    return isinstance(WeightReader(region).poll(now_ns), Weights)


def test_it_waits_for_a_region_and_steps_as_soon_as_it_is_there(name, frozen):
    agent = ServiceAgent(name, frozen)
    now_ns = monotonic_ns()
    assert agent.step(now_ns) is None
    region = make(name)
    assert agent.step(now_ns + RETRY_NS) is not None
    assert applied(region, now_ns + RETRY_NS)
    agent.close()
    region.remove()


def test_it_observes_what_other_balancers_tell(name, frozen):
    region = make(name, peers=1)
    block = PeersBlock(region)
    agent = ServiceAgent(name, frozen)
    now_ns = monotonic_ns() + RETRY_NS
    waits = np.zeros((2, 8), np.int64)
    totals = np.zeros((len(lo.PEER_TOTALS), 8), np.int64)
    arrivals = lo.PEER_TOTALS.index("arrivals_total")

    def step(q: int, arrived: int) -> Observation:
        nonlocal now_ns
        totals[arrivals, 1] += arrived
        block.show([0, q, *[0] * 6], now_ns + 10**9)
        block.publish(region.identities().copy(), waits, totals, now_ns)
        decision = agent.step(now_ns)
        assert decision is not None
        now_ns += 250_000_000
        return decision.observation

    step(0, 0)
    first, second = step(0, 0), step(9, 40)
    assert (first.arrivals, second.arrivals) == (0, 40)
    flows = FEATURES.index("flows")
    assert first.features[:, flows].tolist() == [0.0, 0.0, 0.0]
    assert second.features[:, flows].argmax() == 1
    agent.close()
    region.remove()


def test_it_says_once_when_flows_are_not_where_the_weights_put_them(name, frozen, caplog):
    region = make(name, peers=1)
    block, agent = PeersBlock(region), ServiceAgent(name, frozen)
    now_ns = monotonic_ns() + RETRY_NS
    nothing = np.zeros((2, 8), np.int64), np.zeros((len(lo.PEER_TOTALS), 8), np.int64)
    caplog.set_level("INFO")

    def told(q: list[int], steps: int) -> list[str]:
        nonlocal now_ns
        caplog.clear()
        for _ in range(steps):
            block.show([*q, *[0] * 5], now_ns + 10**9)
            block.publish(region.identities().copy(), *nothing, now_ns)
            agent.step(now_ns)
            now_ns += 250_000_000
        return [record.getMessage() for record in caplog.records if "flows are" in record.message]

    assert told([10, 10, 10], 40) == []
    (warning,) = told([30, 0, 0], 80)
    assert "of the flows are not where the weights should put them" in warning
    (relief,) = told([10, 10, 10], 200)
    assert "flows are where the weights put them" in relief
    assert region.doubles[region.layout.agent + lo.AGENT_REAL["misplaced"]] < 0.1
    agent.close()
    region.remove()


def test_a_replaced_region_gets_weights_in_the_first_step(name, frozen):
    agent = ServiceAgent(name, frozen)
    old = make(name)
    assert agent.step(monotonic_ns()) is not None
    old.close()  # as the kernel does for an owner that was killed: the name stays, the lock goes
    new = make(name)
    now_ns = monotonic_ns() + RETRY_NS
    assert agent.step(now_ns) is not None
    assert applied(new, now_ns)
    agent.close()
    new.remove()


def test_a_restarted_agent_is_heard_with_its_first_frame(name, frozen):
    region = make(name)
    reader = WeightReader(region)
    first = ServiceAgent(name, frozen)
    for _ in range(9):
        first.step(monotonic_ns())
    assert isinstance(reader.poll(monotonic_ns()), Weights)
    first.close()
    second = ServiceAgent(name, frozen)
    second.step(monotonic_ns())
    found = reader.poll(monotonic_ns())
    assert isinstance(found, Weights)
    assert found.sequence == 10
    second.close()
    region.remove()


def test_a_second_agent_waits_until_the_first_is_gone(name, frozen):
    region = make(name)
    first, second = ServiceAgent(name, frozen), ServiceAgent(name, frozen)
    now_ns = monotonic_ns()
    assert first.step(now_ns) is not None
    assert second.step(now_ns) is None
    first.close()
    assert second.step(now_ns + RETRY_NS) is not None
    second.close()
    region.remove()


def test_a_shadow_steps_and_writes_no_weights(name):
    region = make(name)
    agent = ServiceAgent(name, AgentConfig(mode="shadow"))
    decision = agent.step(monotonic_ns())
    assert decision is not None
    assert decision.weights.shape == (3,)
    assert WeightReader(region).poll(monotonic_ns()) is None
    assert region.words[region.layout.agent + lo.AGENT_SCALAR["steps_total"]] == 1
    agent.close()
    region.remove()


def test_an_operator_pauses_it_lets_it_watch_and_resumes_it(name, frozen):
    region = make(name)
    agent = ServiceAgent(name, frozen)
    reader, mode = WeightReader(region), region.layout.agent + lo.AGENT_SCALAR["mode"]
    region.order_agent(lo.AGENT_PAUSE)
    now_ns = monotonic_ns()
    assert agent.step(now_ns) is None
    assert region.words[region.layout.agent + lo.AGENT_SCALAR["heartbeat_ns"]] == now_ns
    assert region.words[mode] == 4
    region.order_agent(lo.AGENT_SHADOW)
    assert agent.step(monotonic_ns()) is not None
    assert region.words[mode] == 3
    assert reader.poll(monotonic_ns()) is None
    region.order_agent(lo.AGENT_RUN)
    assert agent.step(monotonic_ns()) is not None
    assert region.words[mode] == 2
    assert isinstance(reader.poll(monotonic_ns()), Weights)
    agent.close()
    region.remove()


class Learner:
    """In the place of the learner's process: keeps what it was made with, reports what we say."""

    made: ClassVar[list[LearnSettings]] = []

    def __init__(self, learn: LearnSettings, process: ProcessSettings, initial: object) -> None:
        self.made.append(learn)
        self.report: dict[str, object] = {}
        self.counters = ProcessCounters()

    def push(self, step: Step) -> bool:
        return True

    def poll(self) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> type[Learner]:
    monkeypatch.setattr(Learner, "made", [])
    monkeypatch.setattr(live, "LearnerProcess", Learner)
    return Learner


def test_a_problem_of_the_learner_is_logged_once_until_it_changes(name, learner, caplog):
    region = make(name)
    agent = ServiceAgent(name, AgentConfig(mode="learn"))
    for problem in ("", "disk full", "disk full", "file torn", "file torn"):
        agent._learner.report = {"problem": problem}
        agent.step(monotonic_ns())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error.rsplit(": ", 1)[1] for error in errors] == ["disk full", "file torn"]
    agent.close()
    region.remove()


@pytest.mark.parametrize("slots", [1, 64, 256, 1024])
def test_the_learner_takes_as_many_backends_as_the_service_has_slots(
    name, learner, monkeypatch, slots
):
    monkeypatch.setattr("agent.live.signal.signal", lambda *_: None)
    monkeypatch.setattr(live, "pace", lambda *_: ())
    service = {
        "name": name,
        "listen": "127.0.0.1:9",
        "weights": "agent",
        "slots": slots,
        "backends": [{"name": "a", "address": "127.0.0.1:10"}],
    }
    live.run(Config.model_validate({"services": [service], "agent": {"mode": "learn"}}))
    (settings,) = learner.made
    assert settings.max_backends == slots
    assert 512 <= settings.replay_steps <= 4096
    # Twice what the usual replay takes, at most.
    assert settings.replay_steps * slots <= 2 * 4096 * 64


def test_learning_is_gentle_with_what_is_trained_and_not_with_what_is_fresh(name, learner):
    for base in ("latency", "none"):
        ServiceAgent(name, AgentConfig(mode="learn", base=base)).close()
    trained, fresh = learner.made
    usual = LearnSettings()
    assert fresh.actor_lr == usual.actor_lr
    assert fresh.actor_after_updates == 0
    assert trained.actor_lr < 0.2 * usual.actor_lr
    assert trained.neutral_pull == 0.0
    assert trained.actor_after_updates > 0


def test_refused_steps_are_logged_once(name, learner, caplog):
    region = make(name)
    agent = ServiceAgent(name, AgentConfig(mode="learn"))
    for refused in (0, 3, 4):
        agent._learner.report = {"replay_refused": refused}
        agent.step(monotonic_ns())
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "3 so far" in warning.getMessage()
    agent.close()
    region.remove()


def test_the_acting_process_never_imports_torch():
    code = "import agent.cli, agent.live, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 64, b"not a checkpoint at all, no"])
def test_a_wrong_checkpoint_is_refused_with_the_reason(tmp_path, name, content):
    path = tmp_path / "policy.safetensors"
    if content is not None:
        path.write_bytes(content)
    config = tmp_path / "lbd.yaml"
    config.write_text(
        f"""services:
  - name: {name}
    listen: "127.0.0.1:9"
    weights: agent
    backends: [{{name: a, address: "127.0.0.1:10"}}]
agent: {{mode: frozen, checkpoint: policy.safetensors}}
"""
    )
    argv = [sys.executable, "-m", "agent", "--config", str(config)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert str(path) in ended.stderr
    assert "fallback" in ended.stderr


def test_a_wrong_configuration_has_its_own_exit_code(tmp_path):
    config = tmp_path / "lbd.yaml"
    config.write_text("services: []\nagnet: {}\n")
    argv = [sys.executable, "-m", "agent", "--config", str(config)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 78
    assert f"{config}:2: agnet" in ended.stderr


def test_it_reads_its_file_again_and_a_bad_one_changes_nothing(tmp_path, name):
    file, log = tmp_path / "lbd.yaml", tmp_path / "log"
    region = make(name)

    def write(agent: str) -> None:
        file.write_text(
            f"""services:
  - name: {name}
    listen: "127.0.0.1:9"
    weights: agent
    backends: [{{name: a, address: "127.0.0.1:10"}}]
agent: {{{agent}}}
"""
        )

    def told(line: str, times: int = 1) -> None:
        deadline_s = monotonic() + 120
        while log.read_text().count(line) < times:
            assert process.poll() is None, log.read_text()
            assert monotonic() < deadline_s, f"{line!r} not in {log.read_text()!r}"
            sleep(0.02)

    write("mode: frozen")
    argv = [sys.executable, "-m", "agent", "--config", str(file)]
    with log.open("w") as out, subprocess.Popen(argv, stderr=out) as process:
        try:
            told("attached, frozen")
            process.send_signal(signal.SIGHUP)
            told("nothing has changed")
            write("mode: frozen, interval_ms: soon")
            process.send_signal(signal.SIGHUP)
            told(f"not reloaded: {file}:6: agent.interval_ms")
            write("mode: frozen, checkpoint: nowhere.safetensors")
            process.send_signal(signal.SIGHUP)
            told("nowhere.safetensors")
            told("attached, frozen", times=2)
            write("mode: shadow")
            process.send_signal(signal.SIGHUP)
            told("attached, shadow")
            process.terminate()
            assert process.wait(120) == 0
        finally:
            process.kill()
    region.remove()
