"""What several services and backends must be to each other: unique, in number, not a loop.

Lives here: the rules that cross from one list element to another.
Never here: rules about one key or one section; those are in `schema`.

The rules read plain data and pass over what is missing or of the wrong type, so that they also
judge a file with other mistakes in it, and all problems come out at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from config.address import Address
from config.fronts import front_clashes, told_apart
from config.problem import Loc, dotted

DEFAULT_SLOTS = 64
DEFAULT_ADDRESSES = 8

_LOOPBACKS = tuple(map(ipaddress.ip_address, ("127.0.0.1", "::1")))


@dataclass(frozen=True)
class Clash:
    """The `value` at `loc` does not fit the rest of the file; `expected` says what would."""

    loc: Loc
    value: object
    expected: str


def clashes(config: object) -> list[Clash]:
    """All broken rules in `config`, plain data in the shape of `schema.Config` or not at all."""
    services = _elements((), config, "services")
    metrics = config.get("metrics") if isinstance(config, dict) else None
    peers = config.get("peers") if isinstance(config, dict) else None
    listens = list(_addresses(services, "listen"))
    metrics_address = _address(metrics)
    taken = told_apart(listens, services)
    if metrics_address:
        taken.append((("metrics",), metrics_address))
    if isinstance(peers, dict) and isinstance(peers.get("listen"), str):
        peers_address = _address(f"udp:{peers['listen']}")
        if peers_address:
            taken.append((("peers", "listen"), peers_address))
    found = [*_repeated(_names(services), "name"), *_repeated(taken, "listen address")]
    found += (Clash(*clash) for clash in front_clashes(listens, services))
    found += _repeated(_shared_names(services), "name among peers")
    for loc, service in services:
        backends = _elements(loc, service, "backends")
        slots = service.get("slots", DEFAULT_SLOTS)
        needed = sum(_addresses_of(backend) for _, backend in backends)
        if type(slots) is int and 0 < slots < needed:
            found.append(Clash((*loc, "slots"), slots, f"at least {needed}, one for each backend"))
        found += _repeated(_names(backends), "name in its service")
        addresses = list(_addresses(backends, "address"))
        found += _repeated(addresses, "address in its service")
        found += _loops(addresses, listens)
        found += _mixed(addresses, _address(service.get("listen")))
        found += _other_families(_sources(loc, service), addresses)
    return found


def _addresses_of(backend: dict[str, object]) -> int:
    """How many slots a backend may need: one, or those of the addresses of its name."""
    dns = backend.get("dns")
    most = dns.get("max", DEFAULT_ADDRESSES) if isinstance(dns, dict) else 1
    return most if type(most) is int and most > 0 else 1


def _elements(loc: Loc, parent: object, key: str) -> list[tuple[Loc, dict[str, object]]]:
    """The mappings in the list at `key` of `parent`, which is at `loc`."""
    elements = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(elements, list):
        return []
    return [((*loc, key, i), item) for i, item in enumerate(elements) if isinstance(item, dict)]


def _names(elements: list[tuple[Loc, dict[str, object]]]) -> Iterator[tuple[Loc, str]]:
    for loc, element in elements:
        name = element.get("name")
        if isinstance(name, str):
            yield (*loc, "name"), name


def _shared_names(services: list[tuple[Loc, dict[str, object]]]) -> Iterator[tuple[Loc, str]]:
    """Names under which other balancers know the services, where one at least is given so."""
    given = [service.get("shared_as") for _, service in services]
    for (loc, service), shared in zip(services, given, strict=True):
        key = "name" if shared is None else "shared_as"
        name = service.get(key)
        if isinstance(name, str) and any(given):
            yield (*loc, key), name


def _addresses(
    elements: list[tuple[Loc, dict[str, object]]], key: str
) -> Iterator[tuple[Loc, Address]]:
    for loc, element in elements:
        address = _address(element.get(key))
        if address:
            yield (*loc, key), address


def _address(value: object) -> Address | None:
    try:
        return Address.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _repeated(values: Iterable[tuple[Loc, object]], what: str) -> Iterator[Clash]:
    first: dict[object, Loc] = {}
    for loc, value in values:
        if value in first:
            yield Clash(loc, value, f"a unique {what} ({dotted(first[value])} is the same)")
        else:
            first[value] = loc


def _mixed(backends: list[tuple[Loc, Address]], listen: Address | None) -> Iterator[Clash]:
    """Datagrams cannot go on as a connection, nor connections as datagrams."""
    for loc, backend in backends:
        if listen and (backend.kind == "udp") != (listen.kind == "udp"):
            form = "udp:host:port" if listen.kind == "udp" else "no udp:host:port"
            yield Clash(loc, backend, f"{form}, for the service listens on {listen}")


def _sources(loc: Loc, service: dict[str, object]) -> Iterator[tuple[Loc, object]]:
    """Where connections to the backends come from: of flows, of checks, of feedback."""
    health = service.get("health")
    of_health = health if isinstance(health, dict) else {}
    for section, key, where in (
        (service.get("source"), "address", ("source", "address")),
        (of_health.get("check"), "source", ("health", "check", "source")),
        (of_health.get("feedback"), "source", ("health", "feedback", "source")),
    ):
        if isinstance(section, dict):
            yield (*loc, *where), section.get(key)


def _other_families(
    sources: Iterable[tuple[Loc, object]], backends: list[tuple[Loc, Address]]
) -> Iterator[Clash]:
    for loc, source in sources:
        for local in _literals(source) if isinstance(source, str) else ():
            for backend_loc, backend in backends:
                versions = {target.version for target in _literals(backend.host)}
                if versions and local.version not in versions:
                    expected = f"an address of the family of {dotted(backend_loc)}, {backend}"
                    yield Clash(loc, source, expected)
                    break


def _loops(
    backends: list[tuple[Loc, Address]], listens: list[tuple[Loc, Address]]
) -> Iterator[Clash]:
    for loc, backend in backends:
        for listen_loc, listen in listens:
            if _reaches(backend, listen):
                expected = f"an address where no service listens (a loop: {dotted(listen_loc)})"
                yield Clash(loc, backend, expected)


def _reaches(backend: Address, listen: Address) -> bool:
    """Whether a connection to `backend` surely arrives at `listen`, without resolving names.

    A service that listens everywhere is reached over the loopback too; which other addresses
    this machine has is not known here.
    """
    if backend == listen:
        return True
    if backend.kind == "unix" or backend.kind != listen.kind or backend.port != listen.port:
        return False
    return any(
        target == bound
        or (bound.is_unspecified and target.is_loopback and target.version == bound.version)
        for target in _literals(backend.host)
        for bound in _literals(listen.host)
    )


def _literals(host: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    if host == "localhost":
        return _LOOPBACKS
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        return ()
