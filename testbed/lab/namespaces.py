"""Topologies of network namespaces and control groups on this host.

Lives here: the order in which a lab comes up and goes, and that nothing is made unrecorded.
Never here: how one thing is made (`network`, `cgroup`, `servers`), the record's file (`record`).

A lab outlives the process that brought it up, and any process of this host can take it down again.
If that process is killed in the middle, the record names all that it may have made; `down` and the
next `up` of that name remove that, and nothing else.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from testbed.lab import apache, database, network, pages, plan, servers, wiki
from testbed.lab.cgroup import Group, Hierarchy
from testbed.lab.driver import LabError, Machine
from testbed.lab.machine import NamespaceMachine, NamespaceServer
from testbed.lab.needs import missing
from testbed.lab.plan import Node, Plan
from testbed.lab.record import Record, Thing, locked
from testbed.lab.topology import Server, Topology
from testbed.lab.warm import warm

ROOT = Path("/run/lbd-lab")
_ROUTER = "router"
_FRONT, _BACK = "front", "back"
_WEIGHT_MAX = 255

_EVERYWHERE: dict[str, int | str] = {
    "net.ipv6.conf.all.disable_ipv6": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    # One connection a request: their ports must not run out.
    "net.ipv4.ip_local_port_range": "10000 65535",
    "net.ipv4.tcp_tw_reuse": 1,
}
_AT_THE_ROUTER: dict[str, int | str] = {
    "net.ipv4.ip_forward": 1,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    # By ports too: otherwise all connections of one client go one way.
    "net.ipv4.fib_multipath_hash_policy": 1,
}


@dataclass(frozen=True)
class NamespaceLab:
    """A running topology."""

    topology: Topology
    plan: Plan
    router: NamespaceMachine
    client: NamespaceMachine
    balancers: tuple[NamespaceMachine, ...]
    servers: Mapping[str, NamespaceServer]
    database: NamespaceMachine | None
    folder: Path

    @property
    def vip(self) -> str:
        return str(self.plan.vip)

    @property
    def port(self) -> int:
        return self.topology.port

    @property
    def machines(self) -> tuple[NamespaceMachine, ...]:
        """All of them, the router first."""
        database = () if self.database is None else (self.database,)
        return (self.router, self.client, *database, *self.balancers, *self.servers.values())

    def route(self, machines: Sequence[Machine], weights: Sequence[int] | None = None) -> None:
        """Have the edge router spread connections to the service over `machines`."""
        shares = [1] * len(machines) if weights is None else list(weights)
        if not machines or len(shares) != len(machines):
            raise ValueError("need machines, and a weight for each")
        if not all(1 <= share <= _WEIGHT_MAX for share in shares):
            raise ValueError(f"weights must be from 1 to {_WEIGHT_MAX}")
        hops = [(IPv4Address(m.address), share) for m, share in zip(machines, shares, strict=True)]
        network.spread(self.router.namespace, self.plan.vip, hops)

    def reset(self) -> None:
        """As it came up: quotas, routes, and nobody but servers and database on the machines.

        A run that was killed may have left any of it otherwise. Raises LabError where a process
        does not end.
        """
        nodes = (self.plan.client, *self.plan.balancers)
        for machine, node in zip((self.client, *self.balancers), nodes, strict=True):
            machine.group.empty()
            machine.set_cores(node.cores)
        for server in self.servers.values():
            server.set_cores(server.server.cores)
        self.route(self.balancers)

    def cpu_s(self) -> float:
        """CPU seconds of all machines so far."""
        return sum(machine.cpu_ns() for machine in self.machines) / 1e9


class Namespaces:
    """The driver. root: the labs' records and files. cache: where the wiki's original is.

    warm_pages: of the wiki, that every server has served before its lab is up.
    """

    def __init__(
        self, root: Path = ROOT, cache: Path = wiki.CACHE, warm_pages: int = pages.COUNT
    ) -> None:
        self.root = root
        self.cache = cache
        self.warm_pages = warm_pages

    def up(self, topology: Topology) -> NamespaceLab:
        """Bring the topology up, wait until its servers answer. Already up and answering: that one.

        Raises LabError, after removing what had been made.
        """
        lacking = missing(topology)
        if lacking:
            raise LabError(f"this host lacks {', '.join(lacking)}; see make testbed-deps")
        if topology.has_wiki:
            wiki.original(self.cache)
        with locked(self.root):
            found = Record.find(self.root, topology.name)
            if found is not None:
                lab = self._standing(found)
                if lab is not None and lab.topology != topology:
                    raise LabError(f"another topology called {topology.name} is up; take it down")
                if lab is not None and servers.answer(lab.client, lab.servers):
                    return lab
                self._clear(found)
            record = self._recorded(topology)
            try:
                lab = self._build(record)
            except BaseException:
                self._clear(record)
                raise
            record.complete()
            return lab

    def find(self, name: str) -> NamespaceLab | None:
        """The lab of that name; None if there is none, or only parts of it."""
        record = Record.find(self.root, name)
        return None if record is None else self._standing(record)

    def down(self, name: str) -> bool:
        """Remove the lab and all that runs in it; whether there was anything of it."""
        with locked(self.root):
            record = Record.find(self.root, name)
            if record is None:
                return False
            self._clear(record)
            return True

    def labs(self) -> dict[str, NamespaceLab | None]:
        """Every lab by its name; None for one of which only parts are there."""
        found = Record.all(self.root)
        return {record.topology.name: self._standing(record) for record in found}

    def _recorded(self, topology: Topology) -> Record:
        taken = [*network.networks_here(), *(r.network for r in Record.all(self.root))]
        free = plan.free_network(taken)
        if free is None:
            raise LabError(f"no network of {plan.POOL} is free here")
        return Record.create(self.root, topology, free)

    def _standing(self, record: Record) -> NamespaceLab | None:
        """The lab as it was recorded, if all of it is there: a reboot takes all but the record."""
        if not record.is_complete:
            return None
        lab = self._lab(record)
        there = all(m.group.exists and network.path_of(m.namespace).exists() for m in lab.machines)
        return lab if there else None

    def _lab(self, record: Record) -> NamespaceLab:
        """The record's lab by its names, whatever of it is there."""
        layout = plan.lay_out(record.topology, record.network)
        family = Hierarchy.detect().family(record.prefix)
        folder = record.folder / "machines"

        def machine(node: Node) -> NamespaceMachine:
            return NamespaceMachine(
                node.name,
                str(node.address),
                f"{record.prefix}-{node.name}",
                family.inner(node.name),
                folder / node.name,
            )

        def server(node: Node, said: Server) -> NamespaceServer:
            kind = servers.EmbeddedServer if said.kind == "embedded" else NamespaceServer
            base = machine(node)
            return kind(
                base.name, base.address, base.namespace, base.group, base.folder, server=said
            )

        return NamespaceLab(
            topology=record.topology,
            plan=layout,
            router=machine(Node(_ROUTER, layout.gateway_back)),
            client=machine(layout.client),
            balancers=tuple(map(machine, layout.balancers)),
            servers={
                node.name: server(node, said)
                for node, said in zip(layout.servers, record.topology.servers, strict=True)
            },
            database=None if layout.database is None else machine(layout.database),
            folder=record.folder,
        )

    def _build(self, record: Record) -> NamespaceLab:
        lab = self._lab(record)
        hierarchy = Hierarchy.detect()
        family = hierarchy.family(record.prefix)
        hierarchy.open_to_groups(hierarchy.tops)
        self._make_group(record, family)
        hierarchy.open_to_groups(family.folders)
        for machine in lab.machines:
            self._make_machine(record, machine)
        self._connect(lab)
        site = record.folder / "site"
        pages.write_site(site)
        if lab.database is not None:
            database.start(lab.database, lab.topology, self.cache)
        for server in lab.servers.values():
            servers.start(server, site, self._environment(lab, server))
        servers.wait(lab.client, lab.servers)
        warm(lab.client, [s for s in lab.servers.values() if s.server.has_wiki], self.warm_pages)
        return lab

    def _environment(self, lab: NamespaceLab, server: NamespaceServer) -> dict[str, str]:
        if lab.database is None or not server.server.has_wiki:
            return {}
        own = server.folder / "cache"
        own.mkdir()
        shutil.chown(own, apache.USER, apache.USER)
        return wiki.environment(lab.database.folder, lab.database.address, server.server.site, own)

    def _make_group(self, record: Record, group: Group) -> None:
        if group.exists:
            raise LabError(f"{group.folders[0]} is there already and not this lab's")
        record.intend("group", group.folders[0].name)
        group.create()

    def _make_machine(self, record: Record, machine: NamespaceMachine) -> None:
        self._make_group(record, machine.group)
        if network.path_of(machine.namespace).exists():
            raise LabError(f"the namespace {machine.namespace} is there already and not this lab's")
        record.intend("namespace", machine.namespace)
        network.create(machine.namespace)
        machine.folder.mkdir(parents=True)

    def _connect(self, lab: NamespaceLab) -> None:
        layout, router = lab.plan, lab.router.namespace
        network.set_up(router, {**_EVERYWHERE, **_AT_THE_ROUTER})
        links = (
            (_FRONT, layout.front, layout.gateway_front, (layout.client,)),
            (_BACK, layout.back, layout.gateway_back, layout.nodes_back),
        )
        by_name = {machine.name: machine for machine in lab.machines}
        for bridge, link, gateway, nodes in links:
            network.make_bridge(router, bridge, IPv4Interface((gateway, link.prefixlen)))
            for number, node in enumerate(nodes):
                machine = by_name[node.name]
                network.set_up(machine.namespace, self._settings(machine))
                address = IPv4Interface((node.address, link.prefixlen))
                network.plug(router, bridge, f"{bridge}{number}", machine.namespace, address)
                if node.serving:
                    network.own(machine.namespace, layout.vip)
                machine.group.set_cores(
                    None if isinstance(machine, NamespaceServer) else node.cores
                )
        lab.route(lab.balancers)

    def _settings(self, machine: NamespaceMachine) -> dict[str, int | str]:
        if not isinstance(machine, NamespaceServer):
            return {**_EVERYWHERE}
        backlog = {"net.core.somaxconn": machine.server.backlog}
        return {**_EVERYWHERE, **backlog, **apache.SETTINGS}

    def _clear(self, record: Record) -> None:
        """Remove what the record names, the last first, and the record."""
        family = Hierarchy.detect().family(record.prefix)
        lab = self._lab(record)
        ours = {Thing("group", record.prefix)}
        for machine in lab.machines:
            ours |= {Thing("group", machine.name), Thing("namespace", machine.namespace)}
        things = record.things()
        if strange := [thing.name for thing in things if thing not in ours]:
            raise LabError(f"{record.folder} names {', '.join(strange)}, which is no lab's")
        for thing in reversed(things):
            if thing.kind == "namespace":
                if network.path_of(thing.name).exists():
                    network.remove(thing.name)
            elif thing.name == record.prefix:
                family.remove()
            else:
                family.inner(thing.name).remove()
        with contextlib.suppress(FileNotFoundError):
            record.remove()
