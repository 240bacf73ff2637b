"""The whole testbed at its least: a client, the router, two real balancers, three Apache servers.

`make testbed-smoke` runs it for a minute, `make test` for some seconds.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from shm.reader import Reader
from shm.region import Region
from shm.weights import newest_weights
from testbed.cli import main
from testbed.lab import pages
from testbed.lab.command import EXIT_NOT_BELIEVABLE
from testbed.lab.machine import NamespaceMachine
from testbed.lab.namespaces import NamespaceLab
from testbed.lab.needs import missing
from testbed.lab.topology import find, load_topology
from testbed.processes import Children
from tests.lab.lab_here import driver, need

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
END_S = 60.0
LOAD = 0.6
ITERATIONS = 200_000
CPU_S = 23.4e-9 * ITERATIONS
"""Of a request: 8.6 ms for 368 000 iterations, where this was measured."""


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[NamespaceLab]:
    topology = load_topology(find("smoke"))
    # Who asks for the smoke test alone is not to hear that nothing has failed.
    if request.config.option.markexpr == "smoke" and (lacking := missing(topology)):
        pytest.fail(f"needs {', '.join(lacking)}")
    need(topology)
    with driver() as made:
        yield made.up(topology)


def configuration(lab: NamespaceLab, service: str) -> dict[str, object]:
    return {
        "workers": 1,
        "services": [
            {
                "name": service,
                "listen": f"{lab.vip}:{lab.port}",
                "policy": "sed",
                "weights": "agent",
                "backends": [
                    {"name": name, "address": f"{server.address}:{server.port}"}
                    for name, server in lab.servers.items()
                ],
            }
        ],
        "agent": {"mode": "frozen"},
    }


def wrapped(machine: NamespaceMachine, *arguments: str) -> list[str]:
    return machine.inside([sys.executable, "-m", *arguments])


def flows_of(regions: list[Region]) -> list[int]:
    seen = [Reader(region).snapshot(time.monotonic_ns()) for region in regions]
    return [int(one.totals["flows_total"].sum()) for one in seen]


@pytest.mark.parametrize(
    "duration_s", [3.0, pytest.param(60.0, marks=[pytest.mark.smoke, pytest.mark.timeout(300)])]
)
def test_every_request_is_answered_through_router_and_balancers(
    lab: NamespaceLab, tmp_path: Path, duration_s: float
) -> None:
    """With an agent beside each balancer, at some 0.6 of what the servers can do."""
    services = [f"web-{secrets.token_hex(3)}" for _ in lab.balancers]
    environ = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    rng = np.random.default_rng(1)
    rate_per_s = LOAD * sum(server.cores for server in lab.topology.servers) / CPU_S
    times_s = np.cumsum(rng.exponential(1 / rate_per_s, round(rate_per_s * duration_s)))
    work = np.rint(rng.exponential(ITERATIONS, len(times_s))).astype(int)
    trace = tmp_path / "trace.tsv"
    lines = [f"{t}\t{pages.loop_target(n)}" for t, n in zip(times_s, work, strict=True)]
    trace.write_text("\n".join(["time\tquery", *lines, ""]))
    with Children() as children:
        for service, balancer in zip(services, lab.balancers, strict=True):
            path = balancer.folder / "lbd.yaml"
            path.write_text(yaml.safe_dump(configuration(lab, service)))
            argv = wrapped(balancer, "lbd", "--config", str(path))
            child = children.start(balancer.name, argv, env=environ)
            child.wait_line("ready", READY_S)
            argv = wrapped(balancer, "agent", "--config", str(path))
            agent = children.start(f"agent {balancer.name}", argv, env=environ)
            agent.wait_line("attached", READY_S)
        before_ns = [server.cpu_ns() for server in lab.servers.values()]
        argv = wrapped(lab.client, "testbed", "load", "--json", "--trace", str(trace))
        # Its own lag is the host's business here.
        argv += ["--target", f"{lab.vip}:{lab.port}", "--max-lag-ms", "60000"]
        load = children.start("load", argv, env=environ)
        load.wait(duration_s + END_S)
        summary = json.loads(load.output()[-1])
        regions = [Region.attach(name) for name in services]
        end_s = time.monotonic() + END_S
        # Counters come a moment after what they count.
        while sum(flows := flows_of(regions)) < len(times_s) and time.monotonic() < end_s:
            time.sleep(0.01)
        given = [newest_weights(region) for region in regions]
    assert summary["failures"] == {}
    assert summary["succeeded"] == len(times_s)
    assert sum(flows) == len(times_s)
    assert all(count > 0 for count in flows)
    # Each balancer's agent has spoken, and not all servers are the same to it.
    assert all(weights is not None and len(set(weights.weight[:3])) > 1 for weights in given)
    used_ns = [
        server.cpu_ns() - before
        for server, before in zip(lab.servers.values(), before_ns, strict=True)
    ]
    assert all(used > 0 for used in used_ns)


def test_the_command_brings_it_up_and_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    need(load_topology(find("smoke")))
    with driver() as made:

        def said(*arguments: str) -> str:
            assert main(["lab", *arguments, "--root", str(made.root)]) in (0, EXIT_NOT_BELIEVABLE)
            return capsys.readouterr().out

        assert "http://198." in said("up", "smoke")
        assert "small2" in said("status")
        saved = tmp_path / "capacity.json"
        shown = said("calibrate", "smoke", "--seconds", "1", "--save", str(saved))
        (found,) = json.loads(saved.read_text())
        assert f"{found['rate_per_s']:.1f} requests/s" in shown
        assert [server["server"] for server in found["servers"]] == ["small1", "small2", "large1"]
        assert found["cpu_ms"] > 0
        assert made.find("smoke") is not None
        assert said("down", "smoke") == "smoke: removed\n"
        assert said("status") == ""
        assert said("down", "smoke") == "smoke: nothing to remove\n"
        assert main(["lab", "up", "no-such", "--root", str(made.root)]) == 1
        assert "No such file" in capsys.readouterr().err
