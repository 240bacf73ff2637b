"""The runtime API and its command: what is asked is told, what is wished is done, or refused."""

from __future__ import annotations

import grp
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from lbd_backends import Backend, echo
from lbd_client import FakeAgent, ask, connect
from lbd_waiting import until
from openapi_spec_validator import validate

from config.load import load
from config.schema import Config
from lbctl import cli
from lbctl.client import ApiError, Client
from lbctl.save import save
from lbd.api.edits import EditError, remove_backend, set_backend
from lbd.api.openapi import description
from lbd.api.peer import Level, Peer, level, peer
from lbd.api.routes import ROUTES

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
def client(path: Path) -> Client:
    return Client(str(path))


@pytest.fixture
def api(daemon: Start, path: Path) -> Start:
    """A daemon with the API, and metrics for its histograms."""

    def start(*services: dict[str, Any], **settings: Any) -> ld.Daemon:
        metrics = f"127.0.0.1:{ld.free_port()}"
        return daemon(*services, metrics=metrics, api={"listen": f"unix:{path}"}, **settings)

    return start


def rows(client: Client, service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = client.ask("GET", "services", service["name"], "backends")["backends"]
    return {row["name"]: row for row in found}


def change(client: Client, service: dict[str, Any], backend: str, **values: object) -> list[str]:
    """The keys that it changed."""
    path = ("services", service["name"], "backends", backend)
    return [c["key"] for c in client.ask("PATCH", *path, body=values)["changes"]]


def test_it_is_described_by_openapi(api: Start, backend: Make, client: Client) -> None:
    api(ld.service([backend(echo).address]))
    found = client.ask("GET", "openapi.json")
    assert found == description()
    validate(found)
    told = {
        (method.upper(), path) for path, methods in found["paths"].items() for method in methods
    }
    assert told == {(route.method, route.path) for route in ROUTES}


def test_status_tells_workers_services_and_the_agent(
    api: Start, backend: Make, client: Client
) -> None:
    service = ld.service([backend(echo).address], weights="agent")
    one = api(service, workers=2)
    found = client.ask("GET", "status")
    assert found["pid"] == one.pid
    assert found["config"] == str(one.path)
    assert found["level"] == "operate"
    assert sorted(w["pid"] for w in found["workers"]) == sorted(one.workers())
    (told,) = found["services"]
    assert (told["name"], told["policy"], told["usable"]) == (service["name"], "sed", 1)
    assert told["agent"] == {
        **told["agent"],
        "up": False,
        "mode": None,
        "order": "none",
        "reward": None,
    }
    agent = FakeAgent(service["name"])
    agent.give(2.0)
    agent.block.set("mode", 1)
    agent.block.set_real("reward", -1.5)

    def in_force() -> bool:
        (told,) = client.ask("GET", "status")["services"]
        return bool(told["agent"]["weights_in_force"] == 2)

    until(in_force, "weights in force")
    (told,) = client.ask("GET", "status")["services"]
    assert (told["agent"]["mode"], told["agent"]["reward"]) == ("learn", -1.5)
    assert rows(client, service)["b0"]["weight"] == 2.0
    agent.close()


def test_a_weight_set_at_run_time_is_visible_as_such_and_saved(
    api: Start, backend: Make, client: Client, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = ld.service([backend(echo).address, backend(echo).address], policy="wrr")
    one = api(service)
    one.path.write_text("# a comment that stays\n" + one.path.read_text())
    name = service["name"]
    assert change(client, service, "b1", weight=3.0) == [f"services.{name}.backends.b1.weight"]
    assert [rows(client, service)[b]["changed"] for b in ("b0", "b1")] == [False, True]
    assert rows(client, service)["b1"]["configured_weight"] == 3.0
    for _ in range(40):
        ask(service)
    until(lambda: rows(client, service)["b1"]["sessions_total"] == 30, "three quarters")
    assert [c["after"] for c in client.ask("GET", "changes")["changes"]] == [3.0]
    assert cli.main(["--socket", str(path), "save"]) == 0
    assert "saved" in capsys.readouterr().out
    text = one.path.read_text()
    assert text.startswith("# a comment that stays\n")
    assert [b.weight for b in load(one.path).services[0].backends] == [1.0, 3.0]
    assert client.ask("GET", "changes") == {"changes": []}
    assert rows(client, service)["b1"]["configured_weight"] == 3.0
    assert cli.main(["--socket", str(path), "save"]) == 0
    assert "says so already" in capsys.readouterr().out
    assert one.path.read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_saved_file_stays_its_owner_s_and_where_it_was(tmp_path: Path) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    file.write_text(yaml.safe_dump({"services": [ld.service(["127.0.0.1:1"])]}))
    file.chmod(0o640)
    os.chown(file, 65_534, 65_533)
    link.symlink_to(file)
    wanted = load(file).model_dump(mode="json")
    wanted["services"][0]["backends"][0]["weight"] = 2.0
    assert save(link, wanted)
    assert link.is_symlink()
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65_534, 65_533, 0o640)
    assert load(file).services[0].backends[0].weight == 2.0


def test_a_reload_undoes_what_was_changed(api: Start, backend: Make, client: Client) -> None:
    service = ld.service([backend(echo).address])
    api(service)
    change(client, service, "b0", weight=3.0)
    assert len(client.ask("POST", "reload")["changes"]) == 1
    assert rows(client, service)["b0"]["configured_weight"] == 1.0


def test_a_drained_backend_gets_no_flows_and_keeps_those_it_has(
    api: Start, backend: Make, client: Client
) -> None:
    servers = [backend(echo), backend(echo)]
    service = ld.service([server.address for server in servers], policy="rr")
    api(service, workers=2)

    def none_of_ten() -> bool:
        before = servers[0].accepted
        for _ in range(10):
            assert ask(service) == b"ping"
        return servers[0].accepted == before

    change(client, service, "b1", state="drain")
    with connect(service) as sock:
        sock.sendall(b"a")
        assert sock.recv(1) == b"a"
        change(client, service, "b1", state="ready")
        change(client, service, "b0", state="drain")
        assert rows(client, service)["b0"]["state"] == "drain"
        # A worker that is too busy to confirm in time goes on by the order before for a moment.
        until(none_of_ten, "a drained backend gets no flows")
        assert none_of_ten()
        sock.sendall(b"b")
        assert sock.recv(1) == b"b"
        path = ("services", service["name"], "backends", "b0")
        client.ask("PATCH", *path, body={"state": "drain", "deadline_s": 0.0})
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_backends_are_added_and_removed(api: Start, backend: Make, client: Client) -> None:
    first, second = backend(echo), backend(echo)
    service = ld.service([first.address])
    name = service["name"]
    api(service, workers=2)
    body = {"name": "new", "address": second.address, "max_connections": 7}
    client.ask("POST", "services", name, "backends", body=body)
    assert rows(client, service)["new"]["max_connections"] == 7
    client.ask("DELETE", "services", name, "backends", "b0")
    # A worker that is too busy to confirm it in time may still go by the old configuration.
    until(lambda: list(rows(client, service)) == ["new"], "the slot given back")
    for _ in range(5):
        assert ask(service) == b"ping"
    assert second.accepted == 5
    with pytest.raises(ApiError, match="at least 1 item"):
        client.ask("DELETE", "services", name, "backends", "new")
    assert ask(service) == b"ping"


def test_wishes_that_make_no_sense_change_nothing(
    api: Start, backend: Make, client: Client
) -> None:
    service = ld.service([backend(echo).address])
    api(service)
    name = service["name"]
    before = client.ask("GET", "config")
    for method, parts, body, said in (
        ("PATCH", ("services", "nobody"), {"policy": "rr"}, "no service nobody"),
        ("PATCH", ("services", name), {"policy": "best"}, "policy"),
        ("PATCH", ("services", name), {"slots": 3}, "slots"),
        ("PATCH", ("services", name, "backends", "b9"), {"weight": 1.0}, "no backend b9"),
        ("PATCH", ("services", name, "backends", "b0"), {"weight": -1.0}, "weight"),
        ("PATCH", ("services", name, "backends", "b0"), {"weight": "2"}, "weight"),
        ("POST", ("services", name, "backends"), {"name": "b0", "address": "h:1"}, "unique"),
        ("POST", ("services", name, "backends"), {"name": "x"}, "address"),
        (
            "POST",
            ("services", name, "backends"),
            {"name": "x", "address": "x.invalid:1"},
            "resolve",
        ),
        ("POST", ("services", name, "agent"), {"order": "sleep"}, "order"),
    ):
        with pytest.raises(ApiError, match=said):
            client.ask(method, *parts, body=body)
    with pytest.raises(ApiError, match="limit"):
        client.ask("GET", "services", name, "flows", query={"limit": 0})
    assert client.ask("GET", "config") == before


def test_a_wish_is_refused_for_its_own_fault_alone() -> None:
    backend = {"name": "b", "address": "127.0.0.1:2"}
    config = Config.model_validate(
        {"services": [{"name": "a", "listen": "127.0.0.1:1", "backends": [backend]}]}
    )
    with pytest.raises(EditError) as refused:
        set_backend(config, "a", "b", {"weight": 0.0})
    assert str(refused.value) == "services[0].backends[0].weight: Input should be greater than 0"
    with pytest.raises(EditError, match=r"^services\[0\].backends: .*at least 1 item"):
        remove_backend(config, "a", "b")


def test_flows_are_listed_oldest_first(api: Start, backend: Make, client: Client) -> None:
    service = ld.service([backend(echo).address])
    api(service, workers=2)
    socks = [connect(service) for _ in range(5)]
    for sock in socks:
        sock.sendall(b"abc")
        assert sock.recv(3) == b"abc"
    found = client.ask("GET", "services", service["name"], "flows", query={"limit": 3})
    assert found["open"] == 5
    clients = ["{}:{}".format(*sock.getsockname()) for sock in socks]
    assert {flow["client"] for flow in found["flows"]} <= set(clients)
    ages = [flow["age_s"] for flow in found["flows"]]
    assert ages == sorted(ages, reverse=True)
    assert {(f["state"], f["backend"], f["bytes_in"]) for f in found["flows"]} == {
        ("answered", "b0", 3)
    }
    for sock in socks:
        sock.close()


def test_the_last_choice_is_explained(api: Start, backend: Make, client: Client) -> None:
    """Two flows are open at b0, one at b1: the score is (q + 1) / weight."""
    service = ld.service([backend(echo).address, backend(echo).address], policy="sed")
    service["backends"][0]["weight"] = 2.0
    api(service)
    socks = [connect(service) for _ in range(3)]
    for sock in socks:
        sock.sendall(b"a")
        sock.recv(1)
    (found,) = client.ask("GET", "services", service["name"], "explain")["workers"]
    assert (found["policy"], found["weights"]) == ("sed", "configured")
    told = {row["backend"]: row for row in found["backends"]}
    assert [told[b]["q"] for b in ("b0", "b1")] == [2, 1]
    assert [told[b]["score"] for b in ("b0", "b1")] == pytest.approx([1.5, 2.0])
    chosen = [row for row in found["backends"] if row["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["last_score"] == min(row["last_score"] for row in found["backends"])
    client.ask("PATCH", "services", service["name"], body={"policy": "rr"})
    ask(service)
    (found,) = client.ask("GET", "services", service["name"], "explain")["workers"]
    assert found["policy"] == "rr"
    assert [row["score"] for row in found["backends"]] == [None, None]
    for sock in socks:
        sock.close()


def test_the_agent_is_ordered_through_the_region(api: Start, backend: Make, client: Client) -> None:
    service = ld.service([backend(echo).address], weights="agent")
    api(service)
    with ld.attached(service["name"]) as region:
        for order, word in (("pause", 1), ("shadow", 2), ("resume", 0)):
            told = client.ask("POST", "services", service["name"], "agent", body={"order": order})
            assert region.agent_order == word
            assert told["agent"]["order"] == (order if word else "none")


def test_the_socket_is_for_its_group_and_goes_with_the_daemon(
    api: Start, backend: Make, path: Path
) -> None:
    one = api(ld.service([backend(echo).address]))
    status = path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert one.stop() == 0
    assert not path.exists()


def test_an_unknown_group_is_told(launch: Start, path: Path) -> None:
    settings = {"listen": f"unix:{path}", "group": "no-such-group"}
    one = launch(ld.service(["127.0.0.1:1"]), api=settings)
    assert one.wait() == 1
    assert f"cannot listen on unix:{path}: there is no group no-such-group" in one.log
    assert not path.exists()


def test_who_may_operate() -> None:
    """Root, the daemon's own user, and the operators; everybody else reads."""
    ours, stranger = os.geteuid(), 65_534
    assert level(Peer(ours, frozenset((7,))), None) is Level.OPERATE
    assert level(Peer(0, frozenset((7,))), None) is Level.OPERATE
    assert level(Peer(stranger, frozenset((7,))), None) is Level.READ
    assert level(Peer(stranger, frozenset((7,))), 8) is Level.READ
    assert level(Peer(stranger, frozenset((7, 8))), 8) is Level.OPERATE
    here, there = socket.socketpair()
    with here, there:
        assert peer(here) == Peer(ours, frozenset((os.getegid(), *os.getgroups())))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_stranger_reads_and_changes_nothing(
    api: Start, backend: Make, path: Path, tmp_path: Path
) -> None:
    service = ld.service([backend(echo).address])
    api(service)
    path.chmod(0o666)
    tmp_path.chmod(0o711)
    # The kernel notes who connects; the folder is entered before, for it is not the stranger's.
    code = (
        "import http.client, os, socket, sys\n"
        "os.chdir(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for method, target in (('GET', '/v1/status'), ('POST', '/v1/reload')):\n"
        "    connection = http.client.HTTPConnection('lbd')\n"
        "    connection.sock = socket.socket(socket.AF_UNIX)\n"
        "    connection.sock.connect('api.sock')\n"
        "    connection.request(method, target)\n"
        "    answer = connection.getresponse()\n"
        "    answer.read()\n"
        "    print(answer.status)\n"
        "    connection.close()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout.split() == ["200", "403"], ended.stderr


def test_the_command_shows_and_changes(
    api: Start, backend: Make, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = ld.service([backend(echo).address, backend(echo).address])
    name = service["name"]
    one = api(service)
    ask(service)

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(["--socket", str(path), *arguments]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    assert f"pid {one.pid}" in run("status")
    # Not on a terminal, a row is a line, however long.
    (line,) = [text for text in run("backends", name).splitlines() if " b1 " in f" {text} "]
    assert service["backends"][1]["address"] in line
    assert len(run("status").splitlines()) == 2 + 2 + 2
    assert json.loads(run("--json", "status"))["pid"] == one.pid
    said = run("set", name, "b0", "weight", "2")
    assert said.strip() == f"services.{name}.backends.b0.weight: 1.0 -> 2.0"
    assert "b0*" in run("backends", name)
    assert "drain" in run("drain", name, "b1", "--deadline", "5")
    assert "maint -> ready" not in run("set", name, "b1", "state", "maint")
    assert "maint -> ready" in run("set", name, "b1", "state", "ready")
    assert "5" in run("set", name, "b1", "maxconn", "5")
    assert "None" not in run("set", name, "b1", "maxconn", "0")
    assert "127.0.0.1:9" in run("add", name, "b2", "127.0.0.1:9", "--weight", "0.5")
    assert "127.0.0.1:9" in run("remove", name, "b2")
    assert "sed -> rr" in run("policy", name, "rr")
    assert "0 oldest of 0" in run("flows", name)
    assert "rr" in run("explain", name)
    assert "pause ordered" in run("agent", "pause")
    assert "policy" in run("changes")
    assert json.loads(run("config"))["services"][0]["policy"] == "rr"
    assert "top needs a terminal" in run("top", code=1)
    assert "rr -> sed" in run("reload")
    assert "no changes" in run("changes")
    assert "expected a number" in run("set", name, "b0", "weight", "much", code=1)
    assert "there is no service x" in run("backends", "x", code=1)
    one.stop()
    assert f"cannot speak to lbd at {path}" in run("status", code=1)


def test_another_socket_is_taken_into_force(
    api: Start, backend: Make, path: Path, client: Client, tmp_path: Path
) -> None:
    one = api(ld.service([backend(echo).address]))
    config = yaml.safe_load(one.path.read_text())
    other = tmp_path / "other.sock"
    config["api"]["listen"] = f"unix:{other}"
    one.path.write_text(yaml.safe_dump(config))
    assert [c["key"] for c in client.ask("POST", "reload")["changes"]] == ["api.listen"]
    until(lambda: other.exists() and not path.exists(), "the other socket")
    assert until(lambda: _status(Client(str(other))), "an answer there")["pid"] == one.pid


def _status(client: Client) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.ask("GET", "status")
    except ApiError:
        return {}
    return found


def test_a_socket_that_cannot_be_had_changes_nothing(
    api: Start, backend: Make, path: Path, client: Client
) -> None:
    service = ld.service([backend(echo).address])
    one = api(service)
    config = yaml.safe_load(one.path.read_text())
    config["services"][0]["policy"] = "rr"
    for settings, said in (
        ({"listen": "unix:/nowhere/api.sock"}, "No such file or directory"),
        ({"listen": f"unix:{path}", "group": "no-such-group"}, "there is no group no-such-group"),
        ({"listen": f"unix:{path}", "operators": "no-such-group"}, "there is no group"),
    ):
        one.path.write_text(yaml.safe_dump({**config, "api": settings}))
        with pytest.raises(ApiError, match=said):
            client.ask("POST", "reload")
        found = client.ask("GET", "config")
        assert found["api"]["listen"] == f"unix:{path}"
        assert found["services"][0]["policy"] == service.get("policy", "sed")


def test_a_reload_that_fails_leaves_no_socket(
    api: Start, backend: Make, client: Client, path: Path, tmp_path: Path
) -> None:
    service = ld.service([backend(echo).address])
    one = api(service)
    other = tmp_path / "other.sock"
    config = yaml.safe_load(one.path.read_text())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config["metrics"] = f"127.0.0.1:{taken.getsockname()[1]}"
        for listen in (other, path):
            config["api"] = {"listen": f"unix:{listen}", "operators": "root"}
            one.path.write_text(yaml.safe_dump(config))
            with pytest.raises(ApiError, match="in use"):
                client.ask("POST", "reload")
    assert not other.exists()
    assert client.ask("GET", "status")["level"] == "operate"


def test_other_rights_are_taken_into_force_on_the_same_socket(
    api: Start, backend: Make, client: Client, path: Path
) -> None:
    one = api(ld.service([backend(echo).address]))
    inode = path.stat().st_ino
    config = yaml.safe_load(one.path.read_text())
    own = grp.getgrgid(os.getegid()).gr_name
    other = next(entry.gr_name for entry in grp.getgrall() if entry.gr_gid != os.getegid())
    for group in (other, own, None):
        config["api"] = {"listen": f"unix:{path}", "group": group}
        one.path.write_text(yaml.safe_dump(config))
        client.ask("POST", "reload")
        expected = os.getegid() if group is None else grp.getgrnam(group).gr_gid
        assert path.stat().st_gid == expected
        # Whoever comes meanwhile finds somebody there.
        for _ in range(20):
            assert client.ask("GET", "config")["api"]["group"] == group
    assert path.stat().st_ino == inode
    assert one.stop() == 0
    assert not path.exists()
