"""Topologies as containers and as virtual machines, as the tools of each judge what is written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config.load import load
from testbed.cli import main
from testbed.lab import compose, guest, libvirt, wiki
from testbed.lab.guest import guests
from testbed.lab.plan import lay_out
from testbed.lab.topology import Topology, find, load_topology

ROOT = Path(__file__).resolve().parents[2]
NETWORK = IPv4Network("198.18.8.0/22")
CLOUD_INIT = Path(
    "/usr/lib/python3/dist-packages/cloudinit/config/schemas/schema-cloud-config-v1.json"
)
MIXED = Topology.model_validate(
    {
        "name": "mixed",
        "client": {"cores": 1.5},
        "servers": [
            {"name": "web", "count": 2, "cores": 0.1},
            {"name": "wiki", "site": "wiki-apcu"},
            {"name": "sham", "kind": "embedded"},
        ],
    }
)
TOPOLOGIES = [load_topology(find("moderate")), load_topology(find("six")), MIXED]
IDS = [topology.name for topology in TOPOLOGIES]


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wiki that need not be built: what is written about it is the same."""

    def copy(folder: Path, cache: Path, seen_at: Path) -> None:
        (folder / "mysql").mkdir()
        wiki.settings_file(folder).write_text(f"<?php // {seen_at}\n")

    monkeypatch.setattr(wiki, "copy", copy)


def tool(name: str, *arguments: str) -> str:
    """Run a program; it must be content. Without it the test is skipped."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"needs {name}")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=IDS)
def test_the_compose_file_is_one(tmp_path: Path, topology: Topology) -> None:
    plan = lay_out(topology, NETWORK)
    compose.render(tmp_path / "lab", topology, plan)
    file = tmp_path / "lab" / "compose.yaml"
    found = json.loads(tool("docker-compose", "-f", str(file), "config", "--format=json"))
    services: dict[str, Any] = found["services"]
    assert set(services) == {machine.name for machine in guests(topology, plan)}
    for node in (plan.client, *plan.nodes_back):
        networks = services[node.name]["networks"]
        assert [one["ipv4_address"] for one in networks.values()] == [str(node.address)]
    assert set(services["router"]["networks"]) == {"front", "back"}
    for name, network in found["networks"].items():
        (config,) = network["ipam"]["config"]
        gateway = services["router"]["networks"][name]["ipv4_address"]
        assert config["gateway"] != gateway
    web = services[plan.servers[0].name]
    share = topology.servers[0].cores
    assert int(web["cpu_quota"]) / int(web["cpu_period"]) == pytest.approx(share, rel=0.01)
    assert web["sysctls"]["net.ipv4.tcp_abort_on_overflow"] == "1"
    (volume,) = web["volumes"]
    assert volume["read_only"]
    assert Path(volume["source"]) == tmp_path / "lab" / "share"


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=IDS)
def test_each_containers_script_is_one(tmp_path: Path, topology: Topology) -> None:
    document = compose.document(topology, lay_out(topology, NETWORK), tmp_path / "Dockerfile")
    for service in document["services"].values():
        (script,) = service["command"]
        path = tmp_path / "script"
        path.write_text(script.replace("$$", "$"))
        tool("sh", "-n", str(path))
        # What stays is the container's first process.
        assert script.splitlines()[-1].startswith("exec ")


def test_the_images_dockerfile_is_one(tmp_path: Path) -> None:
    compose.render(tmp_path / "lab", MIXED, lay_out(MIXED, NETWORK))
    rules = ROOT / "deploy" / "containers" / ".hadolint.yaml"
    tool("hadolint", "-c", str(rules), str(tmp_path / "lab" / "Dockerfile"))


@pytest.mark.parametrize("render", [compose.render, libvirt.render])
def test_what_guests_find_is_what_they_are_told_of(tmp_path: Path, render: Any) -> None:
    plan = lay_out(MIXED, NETWORK)
    render(tmp_path / "lab", MIXED, plan)
    share = tmp_path / "lab" / "share"
    named = set()
    for machine in guests(MIXED, plan):
        texts = [*machine.commands, *machine.programs, *machine.files.values()]
        for text in texts:
            named |= set(re.findall(rf"(?<!\w){guest.SHARE}(/[\w./-]+)", text))
    assert "/site" in named
    # Its messages are in the wiki's own copy, which is not made here.
    assert [name for name in sorted(named) if not (share / name.lstrip("/")).exists()] == []
    with pytest.raises(FileExistsError):
        render(tmp_path / "lab", MIXED, plan)


def test_each_balancer_has_a_configuration_that_is_one(tmp_path: Path) -> None:
    plan = lay_out(MIXED, NETWORK)
    guest.write_share(tmp_path, MIXED, plan)
    for node in plan.balancers:
        (service,) = load(tmp_path / node.name / "lbd.yaml").services
        assert service.listen.host == str(plan.vip)
        assert [b.address.host for b in service.backends] == [str(s.address) for s in plan.servers]


def test_guests_run_what_namespaces_run() -> None:
    """The router spreads, servers have the papers' settings, all know the way."""
    plan = lay_out(MIXED, NETWORK)
    by_name = {machine.name: machine for machine in guests(MIXED, plan)}
    router = by_name["router"]
    assert router.settings["net.ipv4.fib_multipath_hash_policy"] == 1
    (spread,) = router.commands
    assert all(f"nexthop via {node.address}" in spread for node in plan.balancers)
    for node in (*plan.balancers, *plan.servers):
        assert f"ip address replace {plan.vip}/32 dev lo" in by_name[node.name].commands
    assert by_name["web1"].settings["net.core.somaxconn"] == 128
    assert "MaxRequestWorkers 32\n" in by_name["web1"].files["httpd.conf"]
    assert "SetEnv LAB_CACHE apcu\n" in by_name["wiki1"].files["httpd.conf"]
    assert "LAB_CACHE" not in by_name["web1"].files["httpd.conf"]
    assert any(program.startswith("mariadbd ") for program in by_name["database"].programs)


def test_apache_itself_takes_its_configuration(tmp_path: Path) -> None:
    from testbed.lab import apache

    module = apache.php_module()
    if module is None:
        pytest.skip("needs PHP's module for Apache")
    (tmp_path / "site").mkdir()
    for server in MIXED.servers:
        if server.kind == "apache":
            environment = {"LAB_CACHE": "apcu"} if server.has_wiki else {}
            text = apache.configuration(server, tmp_path, tmp_path / "site", module, environment)
            (tmp_path / "httpd.conf").write_text(text)
            tool("apache2", "-t", "-f", str(tmp_path / "httpd.conf"))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=IDS)
def test_libvirt_takes_every_definition(tmp_path: Path, topology: Topology) -> None:
    plan = lay_out(topology, NETWORK)
    libvirt.render(tmp_path / "lab", topology, plan)
    for path in (tmp_path / "lab").glob("networks/*.xml"):
        tool("virt-xml-validate", str(path), "network")
    domains = sorted((tmp_path / "lab").glob("guests/*/domain.xml"))
    assert len(domains) == len(guests(topology, plan))
    # One of a kind: they differ in names and numbers only.
    for name in ("router", "client", "balancer1", plan.servers[0].name):
        tool("virt-xml-validate", str(tmp_path / "lab/guests" / name / "domain.xml"), "domain")
    macs = [mac for path in domains for mac in re.findall(r'mac address="(.*)"', path.read_text())]
    assert len(macs) == len(set(macs)) == 2 * len(domains) + 1


def test_cloud_init_takes_what_guests_are_given() -> None:
    if not CLOUD_INIT.exists():
        pytest.skip("needs cloud-init, for its schema")
    rules = json.loads(CLOUD_INIT.read_text())
    for machine in guests(MIXED, lay_out(MIXED, NETWORK)):
        jsonschema.validate(libvirt.user_data(machine), rules)


def test_cloud_inits_commands_are_shell(tmp_path: Path) -> None:
    for machine in guests(MIXED, lay_out(MIXED, NETWORK)):
        data = libvirt.user_data(machine)
        script = tmp_path / "script"
        script.write_text("\n".join([*data["bootcmd"], *data["runcmd"]]))
        tool("sh", "-n", str(script))
        assert yaml.safe_load(libvirt._yaml(data)) == data


def test_the_command_writes_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, expected in (("compose", "compose.yaml"), ("libvirt", "guests/small1/domain.xml")):
        to = tmp_path / kind
        assert main(["lab", "render", "smoke", "--as", kind, "--to", str(to)]) == 0
        assert (to / expected).exists()
        assert str(to) in capsys.readouterr().out
        assert main(["lab", "render", "smoke", "--as", kind, "--to", str(to)]) == 1
        assert "is not empty" in capsys.readouterr().err


def test_the_scripts_make_and_remove_by_recorded_name(tmp_path: Path) -> None:
    """Against a virsh that only notes what it is told, and fails half way through."""
    topology = load_topology(find("smoke"))
    lab, programs = tmp_path / "lab", tmp_path / "bin"
    libvirt.render(lab, topology, lay_out(topology, NETWORK))
    programs.mkdir()
    said = tmp_path / "said"
    fake = f'#!/bin/sh\necho "$*" >> {said}\ncase "$*" in *small1*) exit 1;; esac\n'
    for name in ("virsh", "qemu-img", "cloud-localds"):
        (programs / name).write_text(fake if name == "virsh" else "#!/bin/sh\n")
        (programs / name).chmod(0o755)

    def run(script: str) -> int:
        path = f"{programs}:/usr/bin:/bin"
        return subprocess.run([str(lab / script)], env={"PATH": path}, timeout=120).returncode

    assert run("up") != 0
    made = (lab / "made").read_text().split()[1::2]
    assert [name.rpartition("-")[2] for name in made] == [
        *("front", "back", "router", "client", "balancer1", "balancer2", "small1")
    ]
    assert run("up") == 1
    said.unlink()
    assert run("down") == 0
    destroyed = [line.split()[1] for line in said.read_text().splitlines() if "destroy" in line]
    # small1 was never there.
    assert destroyed == [name for name in reversed(made) if "small1" not in name]
    assert not (lab / "made").exists()
    assert run("down") == 0
