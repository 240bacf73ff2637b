"""`python -m shm`: what an operator sees, and that only the dead are removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, Child, Create

from shm import layout as lo
from shm import segment
from shm.cli import main
from shm.region import Region
from shm.weights import AgentBlock
from shm.worker import WorkerBlock

OWNER = """
import sys
from shm.layout import Layout
from shm.region import Region
region = Region.create(sys.argv[1], Layout(1, 4, 2))
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def region(create: Create) -> Region:
    """Two workers; two backends, one of them served and weighted."""
    region = create(workers=2, slots=4, reservoir=8)
    now_ns = time.monotonic_ns()
    entries = [region.add_backend(n, f"10.0.0.1:{i}", 2.5) for i, n in enumerate("ab", start=80)]
    for worker in range(2):
        block = WorkerBlock(region, worker)
        block.adopt(0, entries[0].identity)
        block.flows[0] = 3.0 + worker
        block.rows["flows_total"][0] = 40
        block.rows["waiting"][0] = 1
        block.rows["waiting_start_ns"][0] = now_ns - 10**9
        block.sample_arrival(now_ns)
        block.count("frames_stale_total", 6)
        for _ in range(200):
            block.sample_duration(0, now_ns, 5_000_000)
        block.publish(now_ns)
    agent = AgentBlock(region)
    agent.beat(now_ns)
    agent.set("steps_total", 12)
    agent.publish(
        np.array([0]), region.identities()[:1], np.array([1.75]), now_ns, now_ns + 60 * 10**9
    )
    return region


def test_dump_as_json_has_every_number(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", region.service, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["generation"] == region.generation
    assert found["owner"]["pid"] == os.getpid()
    assert found["owner"]["alive"] is True
    assert found["owner"]["heartbeat_age_s"] >= 0
    assert found["agent"]["alive"] is True
    assert found["agent"]["steps_total"] == 12
    assert found["geometry"] == {
        "workers": 2,
        "slots": 4,
        "reservoir": 8,
        "depth": 4,
        "bytes": region.layout.total_bytes,
    }
    served, idle = found["backends"]
    assert (served["slot"], served["identity"], served["name"]) == (0, 1, "a")
    assert served["address"] == "10.0.0.1:80"
    assert served["configured_weight"] == 2.5
    assert served["weight"] == 1.75
    assert 0 < served["weight_left_s"] <= 60
    assert served["flows"] == [3, 4]
    assert served["flows_sum"] == 7
    assert served["waiting"] == 2
    assert served["waiting_mean_age_ms"] >= 1000
    assert served["totals"]["flows_total"] == 80
    assert set(served["totals"]) == set(lo.TOTALS)
    assert served["duration_ms"] == {"samples": 16, "mean": 5.0, "p90": 5.0}
    assert served["fct_ms"] == {"samples": 0, "mean": None, "p90": None}
    assert idle["weight"] is None
    assert idle["waiting_mean_age_ms"] is None
    assert [worker["frames_stale_total"] for worker in found["workers"]] == [6, 6]
    assert found["totals"]["frames_stale_total"] == 12


def test_dump_as_text_is_for_people(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", region.service]) == 0
    text = capsys.readouterr().out
    for part in (
        f"generation {region.generation}",
        f"owner   pid {os.getpid()}, alive",
        "q 7 (3 + 4)",
        "weight 1.75 (",
        "configured weight 2.5",
        "no weight from the agent",
        "mean 5.00 ms, p90 5.00 ms (16 samples)",
        "fct no samples",
        "frames_stale_total 6",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 1000


def test_dump_says_of_an_old_weight_that_it_has_expired(
    region: Region, capsys: pytest.CaptureFixture[str]
) -> None:
    region.segment.close()
    attached = Region.attach(region.service)
    AgentBlock(attached).publish(np.array([0]), region.identities()[:1], np.array([4.0]), 1, 2)
    assert main(["dump", region.service]) == 0
    said = capsys.readouterr().out
    assert "weight 4 (expired " in said
    assert "s ago, written " in said
    attached.close()


def test_dump_of_an_empty_region(create: Create, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", create().service]) == 0
    assert "agent   pid -, not there, heartbeat never" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["dump", "clean"])
def test_what_is_not_there_is_an_error_in_plain_words(
    service: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, service]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"shm: no shm /lbd.{service}\n"


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(5000), bytes(8192)])
def test_garbage_is_told_listed_and_cleaned(
    service: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (segment.DIRECTORY / f"{segment.PREFIX}{service}").write_bytes(content)
    assert main(["dump", service]) == 1
    assert capsys.readouterr().err.startswith(f"shm: shm /lbd.{service} is ")
    assert main(["list"]) == 0
    line = next(li for li in capsys.readouterr().out.splitlines() if li.split()[0] == service)
    assert f" {len(content)} " in line
    assert " dead " in line
    assert main(["clean", service]) == 0
    assert service not in segment.present()


def test_another_version_is_told_and_its_live_owner_respected(
    region: Region, capsys: pytest.CaptureFixture[str]
) -> None:
    region.words[lo.H_VERSION] = 99
    assert main(["dump", region.service]) == 1
    assert f"layout version 99, not {lo.VERSION}" in capsys.readouterr().err
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    line = next(li for li in out.splitlines() if li.split()[0] == region.service)
    assert " alive " in line
    assert "layout version 99" in line
    assert main(["clean", region.service]) == 1
    assert "belongs to a live process" in capsys.readouterr().err
    assert not region.segment.replaced()


def test_list_tells_the_living_from_the_dead_and_clean_removes_those(
    region: Region, service: str, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = child(OWNER, service)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert main(["list"]) == 0
    lines = {li.split()[0]: li.split() for li in capsys.readouterr().out.splitlines()}
    size, generation = str(region.layout.total_bytes), str(region.generation)
    assert lines[region.service][1:6] == [size, generation, str(os.getpid()), "alive", "yes"]
    assert lines[service][3:6] == [str(owner.pid), "dead", "no"]
    for name in (region.service, service):
        assert 0 <= int(lines[name][6].removesuffix("s")) < 120

    assert main(["clean", service, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{service}: dead, would be removed\n"
    assert service in segment.present()
    assert main(["clean", region.service, "--dry-run"]) == 1
    assert main(["clean", region.service]) == 1
    assert "belongs to a live process" in capsys.readouterr().err
    assert main(["clean", service]) == 0
    assert capsys.readouterr().out == f"{service}: dead, removed\n"
    assert service not in segment.present()
    assert not region.segment.replaced()


def test_clean_of_everything_keeps_the_living(
    region: Region,
    service: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Only these two are offered: a test must not clean up what others have on this machine.
    monkeypatch.setattr(segment, "present", lambda: [service, "gone", region.service])
    (segment.DIRECTORY / f"{segment.PREFIX}{service}").write_bytes(b"left")
    assert main(["clean"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [f"{service}: dead, removed", f"{region.service}: kept, its owner is alive"]
    assert not region.segment.replaced()


@pytest.mark.parametrize("arguments", [[], ["dump"], ["paint"], ["list", "x"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shm", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage: python -m shm" in done.stderr


def test_a_name_that_cannot_be_one_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "a/b"]) == 1
    assert "cannot name a region" in capsys.readouterr().err
