"""Topologies as data: what ships, what follows from a file, how a bad one is refused."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from config.problem import ConfigError
from testbed.lab.cgroup import quota
from testbed.lab.plan import POOL, free_network, lay_out
from testbed.lab.topology import Topology, find, load_topology, names


@pytest.mark.parametrize("name", names())
def test_each_that_ships_is_a_plan(name: str) -> None:
    topology = load_topology(find(name))
    plan = lay_out(topology, IPv4Network("198.18.0.0/22"))
    assert topology.name == name
    nodes = [plan.client, *plan.nodes_back]
    addresses = {node.address for node in nodes} | {plan.gateway_front, plan.gateway_back, plan.vip}
    assert len(addresses) == len(nodes) + 3
    assert plan.client.address in plan.front
    assert all(node.address in plan.back for node in plan.nodes_back)
    # Nobody may ask for the service's address on a link: only the router knows where it is.
    assert plan.vip not in plan.front
    assert plan.vip not in plan.back
    assert [node.name for node in plan.servers] == [server.name for server in topology.servers]


def test_the_papers_moderate_scale_in_proportion() -> None:
    servers = load_topology(find("moderate")).servers
    assert [s.cores for s in servers] == [0.1] * 4 + [0.2] * 3
    assert {(s.workers, s.backlog, s.kind) for s in servers} == {(32, 128, "apache")}


@pytest.mark.parametrize("name", names())
def test_large_servers_have_twice_the_quota_of_small_ones_exactly(name: str) -> None:
    """Otherwise the second flow of a busy large server ties with no idle small one's first."""
    cores = {group.name: group.cores for group in load_topology(find(name)).groups}
    assert cores["large"] == 2 * cores["small"]
    shares = {
        group: quota_us / period_us
        for group, (quota_us, period_us) in (
            (group, quota(share)) for group, share in cores.items()
        )
    }
    assert shares["large"] == pytest.approx(2 * shares["small"], rel=1e-3)  # whole microseconds


def test_six_balancers_have_twenty_servers() -> None:
    topology = load_topology(find("six"))
    assert (topology.balancers.count, len(topology.servers)) == (6, 20)


def test_a_wiki_brings_its_database() -> None:
    plain = load_topology(find("single"))
    assert plain.database is None
    wiki = plain.serving("wiki-apcu")
    assert wiki.database is not None
    assert wiki.has_wiki
    assert {server.site for server in wiki.servers} == {"wiki-apcu"}
    assert lay_out(wiki, IPv4Network("198.18.0.0/22")).database is not None


def test_what_is_loaded_is_what_is_recorded() -> None:
    topology = load_topology(find("moderate")).serving("wiki-file")
    assert Topology.model_validate(topology.model_dump(mode="json", by_alias=True)) == topology


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nservers: []\n", ":2: servers:"),
        ("name: x\nservers:\n  - {name: a, cores: 0}\n", ":3: servers[0].cores:"),
        ("name: x\nservers:\n  - {name: a, kind: iis}\n", ":3: servers[0].kind:"),
        ("name: x\nservers:\n  - {name: a, kind: embedded, site: static}\n", ":3: servers[0]:"),
        ("name: x\nservers: [{name: a}, {name: a}]\n", "would be called a1"),
        ("name: X Y\nservers: [{name: a}]\n", ":1: name:"),
        ("name: x\nservers: [{name: a}]\nroutr: {}\n", ":3: routr:"),
        ("name: x\nservers: [{name: a, count: 60}, {name: b, count: 60}]\n", "120 servers"),
        ("- just a list\n", ":1:"),
        ("name: [\n", "(yaml)"),
    ],
)
def test_a_bad_file_is_refused_at_its_place(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_topology(path)
    assert str(path) in str(refused.value)
    assert expected in str(refused.value)


def test_no_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_topology(find("nowhere"))


def test_the_network_is_one_that_nobody_has() -> None:
    assert free_network([]) == IPv4Network("198.18.0.0/22")
    first = [IPv4Network("198.18.0.0/16"), IPv4Network("198.19.2.0/24")]
    assert free_network(first) == IPv4Network("198.19.4.0/22")
    assert free_network([POOL]) is None
