"""Network namespaces, and the links, addresses and routes in them.

Lives here: what the kernel is asked for, by netlink. Never here: which machines there are
(`plan`), or in which order they are made (`namespaces`).

Whatever acts inside a namespace does so in a thread of its own that has joined it: a thread cannot
be sure to find its way back, so it ends there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Generic, TypeVar

from pyroute2 import IPRoute, netns

from testbed.kernel import join_network

FOLDER = Path("/run/netns")
T = TypeVar("T")


def path_of(name: str) -> Path:
    """Where ip-netns(8) keeps the namespace."""
    return FOLDER / name


def create(name: str) -> None:
    """A new namespace. Raises FileExistsError where there is one of that name."""
    netns.create(name)


def remove(name: str) -> None:
    """The namespace's name goes; the namespace with its last process or socket."""
    netns.remove(name)


class _Visit(threading.Thread, Generic[T]):
    def __init__(self, name: str, work: Callable[[], T]) -> None:
        super().__init__(name=f"in {name}")
        self._path = path_of(name)
        self._work = work
        self._error: BaseException | None = None
        self._result: T

    def run(self) -> None:
        try:
            join_network(self._path)
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        self.start()
        self.join()
        if self._error is not None:
            raise self._error
        return self._result


def inside(name: str, work: Callable[[], T]) -> T:
    """What `work` returns or raises, called in the namespace; its sockets stay there."""
    return _Visit(name, work).result()


def set_up(name: str, settings: Mapping[str, int | str]) -> None:
    """Bring up the namespace's loopback interface and write its settings, by sysctl(8) names.

    Those that this kernel does not have are left out.
    """

    def work() -> None:
        for key, value in settings.items():
            path = Path("/proc/sys") / key.replace(".", "/")
            if path.exists():
                path.write_text(str(value))
        with IPRoute() as ip:
            ip.link("set", index=_index(ip, "lo"), state="up")

    inside(name, work)


def make_bridge(name: str, bridge: str, address: IPv4Interface) -> None:
    """A bridge in the namespace, which has that address on it."""

    def work() -> None:
        with IPRoute() as ip:
            ip.link("add", ifname=bridge, kind="bridge")
            _bring_up(ip, bridge, address)

    inside(name, work)


def plug(router: str, bridge: str, port: str, name: str, address: IPv4Interface) -> None:
    """A cable from `port` of the router's bridge to `eth0` of the namespace, with that address.

    The router is the namespace's way to everywhere else; its address is the link's first.
    """

    def work_in_router() -> None:
        descriptor = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with IPRoute() as ip:
                ip.link(
                    "add",
                    ifname=port,
                    kind="veth",
                    peer={"ifname": "eth0", "net_ns_fd": descriptor},
                )
                ip.link("set", index=_index(ip, port), master=_index(ip, bridge), state="up")
        finally:
            os.close(descriptor)

    def work() -> None:
        with IPRoute() as ip:
            _bring_up(ip, "eth0", address)
            ip.route("add", dst="0.0.0.0/0", gateway=str(address.network[1]))

    inside(router, work_in_router)
    inside(name, work)


def own(name: str, address: IPv4Address) -> None:
    """The namespace has the address for itself, on no link."""

    def work() -> None:
        with IPRoute() as ip:
            ip.addr("add", index=_index(ip, "lo"), address=str(address), prefixlen=32)

    inside(name, work)


def spread(router: str, address: IPv4Address, hops: Sequence[tuple[IPv4Address, int]]) -> None:
    """In place of what was: the router's way to `address` is over the hops, (gateway, weight)."""

    def work() -> None:
        with IPRoute() as ip:
            ip.route(
                "replace",
                dst=f"{address}/32",
                # Netlink counts the hops' weights from 0.
                multipath=[{"gateway": str(hop), "hops": weight - 1} for hop, weight in hops],
            )

    inside(router, work)


def networks_here() -> list[IPv4Network]:
    """Networks that this process's namespace has a route to, but for the default route."""
    with IPRoute() as ip:
        found = []
        for route in ip.get_routes(family=2):
            if route["dst_len"]:
                to = f"{route.get_attr('RTA_DST')}/{route['dst_len']}"
                found.append(IPv4Network(to, strict=False))
        return found


def _bring_up(ip: IPRoute, name: str, address: IPv4Interface) -> None:
    index = _index(ip, name)
    ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
    ip.link("set", index=index, state="up")


def _index(ip: IPRoute, name: str) -> int:
    (index,) = ip.link_lookup(ifname=name)
    return int(index)
