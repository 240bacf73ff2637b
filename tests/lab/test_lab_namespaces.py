"""Labs of network namespaces: they serve, they go without a trace, they leave others' things be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.lab import network, record
from testbed.lab.calibrate import calibrate
from testbed.lab.driver import LabError, Machine
from testbed.lab.machine import NamespaceMachine, NamespaceServer
from testbed.lab.namespaces import NamespaceLab, Namespaces
from testbed.lab.topology import Topology
from tests.lab.lab_here import driver, left_of, need

ROOT = Path(__file__).resolve().parents[2]
TINY = Topology.model_validate(
    {
        "name": "tiny",
        "balancers": {"count": 2},
        "servers": [
            {"name": "web", "count": 2, "cores": 0.2, "workers": 3, "backlog": 8},
            {"name": "sham", "cores": 0.5, "kind": "embedded"},
        ],
    }
)
SHAM = Topology.model_validate({"name": "sham", "servers": [{"name": "s", "kind": "embedded"}]})
FILES = Topology.model_validate(
    {"name": "files", "servers": [{"name": "f", "count": 2, "cores": 0.1, "site": "static"}]}
)
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[NamespaceLab]:
    need(TINY)
    with driver() as made:
        yield made.up(TINY)


@pytest.fixture
def here() -> Iterator[Namespaces]:
    need(SHAM)
    with driver() as made:
        yield made


def get(host: str, port: int, target: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_S)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def asked(lab: NamespaceLab, machine: Machine, port: int, target: str) -> tuple[int, bytes]:
    found: tuple[int, bytes] = lab.client.call(lambda: get(machine.address, port, target))
    return found


def web(lab: NamespaceLab) -> list[NamespaceServer]:
    return [server for server in lab.servers.values() if server.server.kind == "apache"]


def test_each_server_serves_its_pages(lab: NamespaceLab) -> None:
    for server in web(lab):
        status, body = asked(lab, server, server.port, "/dummy.php/?n=9000")
        assert (status, body) == (200, b"4000\n8000\n")
        status, body = asked(lab, server, server.port, "/static/399.html")
        assert status == 200
        assert len(body) > 1000
        status, _ = asked(lab, server, server.port, "/wiki/index.php")
        assert status == 404
    sham = lab.servers["sham1"]
    assert asked(lab, sham, sham.port, "/dummy.php/?n=9000")[0] == 200
    with pytest.raises(LabError, match="no scoreboard"):
        sham.scoreboard()


def test_the_papers_settings_are_in_force(lab: NamespaceLab) -> None:
    server = web(lab)[0]
    script = "cat /proc/sys/net/ipv4/tcp_abort_on_overflow; ss -Hltn; cat /proc/self/cgroup"
    abort, listening, *_ = server.run(["sh", "-c", script]).splitlines()
    assert abort == "1"
    # ss(8): of a listener, the send queue is its backlog.
    assert listening.split()[:4] == ["LISTEN", "0", "8", "0.0.0.0:80"]
    programs = Counter(Path(f"/proc/{pid}/comm").read_text().strip() for pid in server.group.pids())
    # Its parent and as many workers as the topology says.
    assert programs == {"apache2": 4}
    assert server.scoreboard().stat().st_size > 0


def test_a_quota_is_changed_at_run_time(lab: NamespaceLab) -> None:
    server = web(lab)[0]

    def throttled() -> int:
        fields = (server.group.folders[0] / "cpu.stat").read_text().split()
        return int(fields[fields.index("nr_throttled") + 1])

    def work_ns() -> int:
        before_ns = server.cpu_ns()
        assert asked(lab, server, server.port, "/dummy.php/?n=1000000")[0] == 200
        return server.cpu_ns() - before_ns

    before = throttled()
    assert work_ns() > 0
    assert throttled() > before
    server.set_cores(None)
    before = throttled()
    assert work_ns() > 0
    assert throttled() == before
    server.set_cores(server.server.cores)


def test_an_embedded_servers_speed_is_changed_at_run_time(lab: NamespaceLab) -> None:
    sham = lab.servers["sham1"]
    sham.set_cores(0.25)
    _, body = asked(lab, sham, sham.port, "/stats")
    assert json.loads(body)["speed"] == 0.25


def test_the_router_spreads_connections_over_balancers(lab: NamespaceLab) -> None:
    listeners = {b.name: listen_on(lab, b) for b in lab.balancers}
    try:
        lab.client.call(lambda: connect(lab, 200))
        taken = {name: accepted(listener) for name, listener in listeners.items()}
        # 200 of a fair coin: beyond these once in a million.
        assert all(65 <= count <= 135 for count in taken.values())
        assert sum(taken.values()) == 200
        lab.route(lab.balancers, [3, 1])
        lab.client.call(lambda: connect(lab, 200))
        assert accepted(listeners["balancer1"]) > 115
        lab.route(lab.balancers[:1])
        lab.client.call(lambda: connect(lab, 20))
        accepted(listeners["balancer2"])
        assert accepted(listeners["balancer1"]) >= 20
    finally:
        lab.route(lab.balancers)
        for listener in listeners.values():
            listener.close()


def listen_on(lab: NamespaceLab, machine: NamespaceMachine) -> socket.socket:
    def work() -> socket.socket:
        return socket.create_server((lab.vip, lab.port), backlog=512)

    made: socket.socket = machine.call(work)
    made.setblocking(False)
    return made


def connect(lab: NamespaceLab, count: int) -> None:
    for _ in range(count):
        socket.create_connection((lab.vip, lab.port), timeout=DEADLINE_S).close()


def accepted(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def test_servers_can_stand_behind_the_router_by_themselves(lab: NamespaceLab) -> None:
    servers = web(lab)
    try:
        lab.route(servers, [2, 1])
        before = [server.cpu_ns() for server in servers]
        for _ in range(20):
            status, body = lab.client.call(lambda: get(lab.vip, lab.port, "/dummy.php/?n=4000"))
            assert (status, body) == (200, b"4000\n")
        after = [server.cpu_ns() for server in servers]
        assert all(later > earlier for later, earlier in zip(after, before, strict=True))
    finally:
        lab.route(lab.balancers)
    with pytest.raises(ValueError, match="1 to 255"):
        lab.route(lab.balancers, [0, 1])
    with pytest.raises(ValueError, match="a weight for each"):
        lab.route(lab.balancers, [1])


def test_what_is_started_on_a_machine_is_there_and_in_its_group(lab: NamespaceLab) -> None:
    machine = lab.balancers[0]
    child = machine.popen(["ip", "-br", "addr"], stdout=subprocess.PIPE, text=True)
    out, _ = child.communicate(timeout=DEADLINE_S)
    assert machine.address in out
    assert lab.vip in out
    sleeper = machine.popen(["sleep", "60"], start_new_session=True)
    try:
        until(lambda: sleeper.pid in machine.group.pids(), "the process is in the group")
    finally:
        sleeper.kill()
        sleeper.wait()
    with pytest.raises(LabError, match="ended with 3"):
        machine.run(["sh", "-c", "exit 3"])


def until(condition: object, what: str) -> None:
    assert callable(condition)
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.01)


def test_up_again_is_the_same_and_down_again_is_nothing(here: Namespaces) -> None:
    first = here.up(SHAM)
    child = first.client.popen(["sleep", "60"])
    again = here.up(SHAM)
    assert again.client.namespace == first.client.namespace
    assert here.labs() == {"sham": again}
    with pytest.raises(LabError, match="another topology called sham"):
        here.up(SHAM.model_copy(update={"port": 81}))
    assert here.down("sham")
    assert child.wait(DEADLINE_S) == -signal.SIGKILL
    assert not here.down("sham")
    assert here.find("sham") is None
    assert left_of(first.client.namespace.removesuffix("-client")) == []
    assert list(here.root.iterdir()) == []


def test_two_at_once_have_networks_of_their_own(here: Namespaces) -> None:
    one = here.up(SHAM)
    two = here.up(SHAM.model_copy(update={"name": "other"}))
    assert not one.plan.back.overlaps(two.plan.back)
    assert here.down("sham")
    assert here.find("other") is not None


@pytest.mark.parametrize("things", [1, 4, 9, 11])
def test_after_a_kill_in_the_middle_nothing_is_left(here: Namespaces, things: int) -> None:
    """`things`: how many the driver may have made when it is killed."""
    (path := here.root / "sham.yaml").write_text(
        "name: sham\nservers: [{name: s, kind: embedded}]\n"
    )
    argv = [sys.executable, "-m", "testbed", "lab", "up", str(path), "--root", str(here.root)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(argv, env=environ)

    def begun() -> int:
        found = record.Record.find(here.root, "sham")
        return 0 if found is None else len(found.things())

    until(lambda: begun() >= things, "the driver is under way")
    child.kill()
    child.wait()
    found = record.Record.find(here.root, "sham")
    assert found is not None
    assert not found.is_complete
    assert here.find("sham") is None
    assert here.labs() == {"sham": None}
    assert here.down("sham")
    assert left_of(found.prefix) == []
    path.unlink()
    assert list(here.root.iterdir()) == []


def test_what_a_killed_run_has_left_is_put_right(lab: NamespaceLab) -> None:
    served = asked(lab, web(lab)[0], web(lab)[0].port, "/dummy.php/?n=9000")
    for server in web(lab):
        server.set_cores(0.05)
    quotas = [server.group.folders[0] for server in web(lab)]
    before = [_quota(folder) for folder in quotas]
    lab.route(list(lab.servers.values()))
    straggler = lab.balancers[0].popen(["sleep", "600"])
    until(lambda: straggler.pid in lab.balancers[0].group.pids(), "it is on the machine")
    lab.reset()
    assert straggler.wait(DEADLINE_S) == -signal.SIGKILL
    assert [_quota(folder) for folder in quotas] != before
    assert {_quota(folder) for folder in quotas} == {0.2}
    # Nobody stands in the balancers' places, and servers are no longer asked past them.
    with pytest.raises(OSError, match="refused"):
        lab.client.call(lambda: get(lab.vip, lab.port, "/dummy.php/?n=9000"))
    assert asked(lab, web(lab)[0], web(lab)[0].port, "/dummy.php/?n=9000") == served


def _quota(folder: Path) -> float:
    """Version 2 has it in one file, version 1 in two."""
    if (folder / "cpu.max").exists():
        quota_us, period_us = (folder / "cpu.max").read_text().split()
    else:
        quota_us = (folder / "cpu.cfs_quota_us").read_text()
        period_us = (folder / "cpu.cfs_period_us").read_text()
    return int(quota_us) / int(period_us)


def test_one_whose_server_is_silent_is_made_anew(here: Namespaces) -> None:
    lab = here.up(SHAM)
    lab.servers["s1"].group.empty()
    assert here.up(SHAM).client.namespace != lab.client.namespace


def test_what_a_record_names_besides_the_labs_own_stays(here: Namespaces) -> None:
    lab = here.up(SHAM)
    found = record.Record.find(here.root, "sham")
    assert found is not None
    path = found.folder / "record.jsonl"
    right = path.read_text()
    for kind, name in (("group", "../mine"), ("group", "mine"), ("namespace", "mine")):
        found.intend(kind, name)
        with pytest.raises(LabError, match=f"names {name}, which is no lab's"):
            here.down("sham")
        path.write_text(right)
    assert lab.client.group.exists


def test_parts_of_one_are_replaced(here: Namespaces) -> None:
    lab = here.up(SHAM)
    network.remove(lab.client.namespace)
    assert here.find("sham") is None
    again = here.up(SHAM)
    assert again.client.namespace != lab.client.namespace
    assert here.find("sham") == again


def test_a_lab_that_does_not_come_up_leaves_nothing(
    here: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes: list[str] = []

    def fails(router: str, *rest: object) -> None:
        prefixes.append(router.removesuffix("-router"))
        raise OSError("no more routes")

    monkeypatch.setattr(network, "spread", fails)
    with pytest.raises(OSError, match="no more routes"):
        here.up(SHAM)
    (prefix,) = prefixes
    assert left_of(prefix) == []
    assert list(here.root.iterdir()) == []


def test_a_namespace_of_somebody_else_is_not_touched(
    here: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = os.urandom(3).hex()
    monkeypatch.setattr(record.secrets, "token_hex", lambda _: token)
    theirs = f"lbd-sham-{token}-client"
    network.create(theirs)
    try:
        with pytest.raises(LabError, match="not this lab's"):
            here.up(SHAM)
        assert network.path_of(theirs).exists()
        assert left_of(f"lbd-sham-{token}") == [str(network.path_of(theirs))]
        assert not here.down("sham")
    finally:
        network.remove(theirs)


def test_servers_of_cheap_pages_are_measured_one_after_another(here: Namespaces) -> None:
    need(FILES)
    lab = here.up(FILES)
    (found,) = calibrate(lab, 1.0)
    assert found.duration_s >= 2.0
    assert [server.server for server in found.servers] == ["f1", "f2"]
    assert found.rate_per_s == pytest.approx(sum(server.rate_per_s for server in found.servers))
    assert all(server.cpu_ms > 0 for server in found.servers)
