"""Who has which address: a topology laid out on a network, by arithmetic.

Lives here: addresses and roles. Never here: making anything, looking at this host.

    client ── front ── router ── back ── balancers, servers, database

The service's address is on neither link: the router knows where it is, and whoever serves it has
it on its loopback interface.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from testbed.lab.topology import Topology

POOL = IPv4Network("198.18.0.0/15")
"""Reserved for benchmarks of network devices, RFC 2544: nobody's in the Internet."""

PREFIX = 22
_CLIENT, _DATABASE, _BALANCERS, _SERVERS = 2, 2, 11, 101


@dataclass(frozen=True)
class Node:
    """A machine to be. serving: whether it has the service's address."""

    name: str
    address: IPv4Address
    cores: float | None = None
    serving: bool = False


@dataclass(frozen=True)
class Plan:
    """The machines on their two links, the router's address on each, and the service's."""

    front: IPv4Network
    back: IPv4Network
    vip: IPv4Address
    client: Node
    balancers: tuple[Node, ...]
    servers: tuple[Node, ...]
    database: Node | None

    @property
    def gateway_front(self) -> IPv4Address:
        return self.front[1]

    @property
    def gateway_back(self) -> IPv4Address:
        return self.back[1]

    @property
    def nodes_back(self) -> tuple[Node, ...]:
        """Every machine on the back link but the router."""
        database = () if self.database is None else (self.database,)
        return (*database, *self.balancers, *self.servers)


def lay_out(topology: Topology, network: IPv4Network) -> Plan:
    """The plan of the topology on `network`, a /22."""
    front, back, service, _ = network.subnets(new_prefix=24)
    balancer, database = topology.balancers, topology.database
    return Plan(
        front=front,
        back=back,
        vip=service[1],
        client=Node("client", front[_CLIENT], topology.client.cores),
        balancers=tuple(
            Node(f"balancer{n + 1}", back[_BALANCERS + n], balancer.cores, serving=True)
            for n in range(balancer.count)
        ),
        servers=tuple(
            Node(server.name, back[_SERVERS + n], server.cores, serving=True)
            for n, server in enumerate(topology.servers)
        ),
        database=(None if database is None else Node("database", back[_DATABASE], database.cores)),
    )


def free_network(taken: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first /22 of the pool that overlaps with none of `taken`; None if there is none."""
    held = list(taken)
    for network in POOL.subnets(new_prefix=PREFIX):
        if not any(network.overlaps(other) for other in held):
            return network
    return None
