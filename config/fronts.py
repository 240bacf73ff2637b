"""What services that share one listen address must be to each other: told apart by SNI.

Lives here: those rules, on plain data that may have other mistakes. Never here: rules of one
service (`schema`); the other rules across services (`relations`).
"""

from __future__ import annotations

from collections.abc import Iterator

from config.address import Address
from config.problem import Loc, dotted

Entry = tuple[Loc, dict[str, object]]
COMMON = ("proxy_in", "limits")


def told_apart(
    listens: list[tuple[Loc, Address]], services: list[Entry]
) -> list[tuple[Loc, Address]]:
    """Those of `listens` that must be unique: all but what SNI tells apart from another."""
    by_sni = {(*loc, "listen") for loc, service in services if service.get("sni")}
    kept = [(loc, address) for loc, address in listens if loc not in by_sni]
    for loc, address in listens:
        if loc in by_sni and all(address != other for _, other in kept):
            kept.append((loc, address))
    return kept


def front_clashes(
    listens: list[tuple[Loc, Address]], services: list[Entry]
) -> Iterator[tuple[Loc, object, str]]:
    """(loc, value, expected) where names repeat at one address, or what is read before a service
    is known differs."""
    by_loc = {(*loc, "listen"): (loc, service) for loc, service in services}
    by_sni = {address for loc, address in listens if by_loc[loc][1].get("sni")}
    first: dict[Address, Entry] = {}
    named: dict[tuple[Address, str], Loc] = {}
    for listen_loc, address in listens:
        if address not in by_sni:
            continue
        loc, service = by_loc[listen_loc]
        first_loc, other = first.setdefault(address, (loc, service))
        for key in COMMON:
            if service.get(key) != other.get(key):
                expected = f"the same as at {dotted(first_loc)}, which listens there too"
                yield (*loc, key), service.get(key), expected
        names = service.get("sni")
        for index, name in enumerate(names if isinstance(names, list) else []):
            if not isinstance(name, str):
                continue
            name_loc = (*loc, "sni", index)
            taken = named.setdefault((address, name), name_loc)
            if taken != name_loc:
                yield name_loc, name, f"a name of one service only ({dotted(taken)} is the same)"
