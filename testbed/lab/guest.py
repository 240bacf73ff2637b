"""What a machine does with itself where it is a container or a virtual machine of its own.

Lives here: each machine's links, settings, commands at its start, programs and files. All find the
same folder, mounted read-only at `/lab`, and keep what they write in `/var/lib/lab`.
Never here: what surrounds them: `compose`, `libvirt`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path

import yaml

from testbed.lab import apache, pages, wiki
from testbed.lab.plan import Node, Plan
from testbed.lab.topology import Server, Topology

SHARE = Path("/lab")
OWN = Path("/var/lib/lab")
PHP = apache.MODULES / "libphp8.2.so"
"""Debian 12's, which the guests run."""

FRONT, BACK = "front", "back"
_WEB_USER = f"-o {apache.USER} -g {apache.USER}"


@dataclass(frozen=True)
class Guest:
    """A machine. links: its address by the link's name. settings: by their sysctl(8) names.

    commands: shell lines, run once as root before `programs`, which stay. files: text by name, in
    the machine's folder below `/lab`. lbd: whether its programs need this project.
    """

    name: str
    cores: float | None
    links: Mapping[str, IPv4Interface]
    settings: Mapping[str, int]
    commands: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    lbd: bool = False


def guests(topology: Topology, plan: Plan) -> list[Guest]:
    """All machines, the router first."""
    front, back = plan.front.prefixlen, plan.back.prefixlen
    found = [_router(plan)]
    client = IPv4Interface((plan.client.address, front))
    to_all = (f"ip route replace {net} via {plan.gateway_front}" for net in (plan.vip, plan.back))
    found.append(
        Guest("client", plan.client.cores, {FRONT: client}, {}, commands=tuple(to_all), lbd=True)
    )
    for node in plan.nodes_back:
        links = {BACK: IPv4Interface((node.address, back))}
        commands = [f"ip route replace {plan.front} via {plan.gateway_back}"]
        if node.serving:
            commands.append(f"ip address replace {plan.vip}/32 dev lo")
        if node in plan.balancers:
            found.append(_balancer(topology, plan, node, links, commands))
        elif node in plan.servers:
            server = topology.servers[plan.servers.index(node)]
            found.append(_server(server, plan, links, commands))
        else:
            found.append(_database(topology, node, links, commands))
    return found


def write_share(folder: Path, topology: Topology, plan: Plan, cache: Path = wiki.CACHE) -> None:
    """The folder that guests find at `/lab`, new. With a wiki, its original may be built first."""
    pages.write_site(folder / "site")
    for guest in guests(topology, plan):
        (folder / guest.name).mkdir()
        for name, text in guest.files.items():
            (folder / guest.name / name).write_text(text)
    if topology.has_wiki:
        wiki.copy(folder / "database", cache, SHARE / "database")


def _router(plan: Plan) -> Guest:
    hops = " ".join(f"nexthop via {node.address}" for node in plan.balancers)
    return Guest(
        "router",
        None,
        {
            FRONT: IPv4Interface((plan.gateway_front, plan.front.prefixlen)),
            BACK: IPv4Interface((plan.gateway_back, plan.back.prefixlen)),
        },
        {"net.ipv4.ip_forward": 1, "net.ipv4.fib_multipath_hash_policy": 1},
        commands=(f"ip route replace {plan.vip} {hops}",),
    )


def _balancer(
    topology: Topology,
    plan: Plan,
    node: Node,
    links: Mapping[str, IPv4Interface],
    commands: list[str],
) -> Guest:
    config = {
        "workers": 1,
        "metrics": "0.0.0.0:9100",
        "services": [
            {
                "name": "web",
                "listen": f"{plan.vip}:{topology.port}",
                "policy": "sed",
                "weights": "agent",
                "fallback": "ewma",
                "backends": [
                    {"name": server.name, "address": f"{server.address}:{apache.PORT}"}
                    for server in plan.servers
                ],
            }
        ],
        "agent": {"mode": "frozen"},
    }
    path = SHARE / node.name / "lbd.yaml"
    return Guest(
        node.name,
        node.cores,
        links,
        {},
        commands=tuple(commands),
        programs=(f"lbd --config {path}", f"lbd-agent --config {path}"),
        files={"lbd.yaml": yaml.safe_dump(config, sort_keys=False)},
        lbd=True,
    )


def _server(
    server: Server, plan: Plan, links: Mapping[str, IPv4Interface], commands: list[str]
) -> Guest:
    settings = {"net.core.somaxconn": server.backlog, **apache.SETTINGS}
    if server.kind == "embedded":
        program = (
            f"python3 -m testbed server --listen 0.0.0.0:{apache.PORT} --speed {server.cores} "
            f"--in-service {server.workers} --backlog {server.backlog}"
        )
        return Guest(server.name, None, links, settings, tuple(commands), (program,), {}, lbd=True)
    environment = {}
    if server.has_wiki:
        assert plan.database is not None
        address = str(plan.database.address)
        environment = wiki.environment(SHARE / "database", address, server.site, OWN / "cache")
    at = SHARE / server.name
    return Guest(
        server.name,
        server.cores,
        links,
        settings,
        commands=(
            *commands,
            f"install -d {_WEB_USER} {OWN} {OWN}/cache",
            f"cp {at}/php.ini {OWN}/php.ini",
        ),
        programs=(f"apache2 -f {at}/httpd.conf -D FOREGROUND",),
        files={
            "httpd.conf": apache.configuration(server, OWN, SHARE / "site", PHP, environment),
            "php.ini": apache.php_settings(OWN),
        },
    )


def _database(
    topology: Topology, node: Node, links: Mapping[str, IPv4Interface], commands: list[str]
) -> Guest:
    assert topology.database is not None
    address = str(node.address)
    connections = sum(server.workers for server in topology.servers)
    if topology.has_wiki:
        commands = [
            *commands,
            f"install -d {_WEB_USER} {OWN}",
            f"cp -a {SHARE}/database/mysql {OWN}/",
        ]
    programs = [wiki.memcached(topology.database, address)]
    if topology.has_wiki:
        programs.append(wiki.mariadb(OWN, address, connections))
    return Guest(
        node.name,
        node.cores,
        links,
        {},
        commands=tuple(commands),
        programs=tuple(shlex.join(argv) for argv in programs),
    )
