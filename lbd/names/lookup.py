"""One question to the nameservers, and what its answer says.

Lives here: A, AAAA and SRV records to addresses, over c-ares. Never here: when to ask again, what a
failure means (`lbd.names.names`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import aiodns
import pycares
from aiodns.error import DNSError

from config.address import Address, Kind
from config.names import Dns, Resolver
from lbd.names.known import Answer, Found

_FAMILY: Final = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
MAX_TARGETS: Final = 64
"""Of an SRV answer; each is a question of its own."""


# What a nameserver says that knows there is nothing: NXDOMAIN, and an empty answer.
_NOTHING: Final = frozenset((aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA))


class LookupFailed(Exception):
    """There is no usable answer; the message says why. told: a nameserver said that there is none,
    as against silence and errors."""

    def __init__(self, reason: str, told: bool) -> None:
        super().__init__(reason)
        self.told = told


class Lookup:
    """Asks whom `config` names."""

    def __init__(self, config: Resolver) -> None:
        self._config = config

    async def ask(self, address: Address, dns: Dns) -> Answer:
        """Raises LookupFailed, also for an answer without an address."""
        config = self._config
        # One of its own each time: c-ares keeps answers, empty ones too, for as long as an hour,
        # and has no switch for that here. It also reads the system's settings anew.
        resolver = aiodns.DNSResolver(
            nameservers=[str(address) for address in config.nameservers] or None,
            timeout=config.timeout_ms * 1e-3,
            tries=config.tries,
        )
        try:
            question = _Question(resolver, dns, address.kind)
            if dns.kind == "srv":
                return await question.services(address.host)
            found, ttl_s = await question.addresses(address.host, address.port)
            return Answer([Found(one) for one in found], ttl_s)
        finally:
            await resolver.close()


class _Question:
    """The look-ups that one answer takes."""

    def __init__(self, resolver: aiodns.DNSResolver, dns: Dns, kind: Kind) -> None:
        self._resolver = resolver
        self._dns = dns
        self._kind = kind

    async def addresses(self, host: str, port: int) -> tuple[list[Address], float]:
        family = _FAMILY.get(self._dns.family, socket.AF_UNSPEC)
        try:
            result = await self._resolver.getaddrinfo(
                host, family=family, port=port, type=socket.SOCK_STREAM
            )
        except DNSError as error:
            raise _failed(host, error) from None
        nodes = _counted(result.nodes, self._dns)
        if not nodes:
            raise LookupFailed(f"{host} has no address", told=True)
        found = [Address(self._kind, _host(node), port) for node in nodes]
        return list(dict.fromkeys(found)), float(min(node.ttl for node in nodes))

    async def services(self, name: str) -> Answer:
        """RFC 2782: of the lowest priority. A target without an address is left out; where nobody
        said so, the answer is not whole."""
        try:
            result = await self._resolver.query_dns(name, "SRV")
        except DNSError as error:
            raise _failed(name, error) from None
        records = [
            (record.ttl, record.data)
            for record in result.answer
            if isinstance(record.data, pycares.SRVRecordData)
            # A target that is the root says that there is no such service.
            if record.data.target.rstrip(".") and record.data.port
        ]
        first = min((data.priority for _, data in records), default=0)
        records = [record for record in records if record[1].priority == first][:MAX_TARGETS]
        answers = await asyncio.gather(
            *(self.addresses(data.target.rstrip("."), data.port) for _, data in records),
            return_exceptions=True,
        )
        heaviest = max((data.weight for _, data in records), default=0)
        found: dict[Address, Found] = {}
        ttls_s: list[float] = []
        whole = True
        for (record_ttl_s, data), answer in zip(records, answers, strict=True):
            if isinstance(answer, LookupFailed):
                whole = whole and answer.told
                continue
            if isinstance(answer, BaseException):
                raise answer
            addresses, ttl_s = answer
            ttls_s += [ttl_s, float(record_ttl_s)]
            # Weight 0 is for little, not for none.
            share = max(data.weight, 1) / max(heaviest, 1)
            found.update({address: Found(address, share) for address in addresses})
        if not found:
            raise LookupFailed(f"{name} has no service with an address", told=whole)
        return Answer(list(found.values()), min(ttls_s), whole)


def _counted(nodes: Iterable[pycares.AddrInfoNode], dns: Dns) -> Sequence[pycares.AddrInfoNode]:
    # 0.0.0.0 is a filter's way to say that there is nothing; a connection to it reaches ourselves.
    nodes = [node for node in nodes if not ipaddress.ip_address(_host(node)).is_unspecified]
    if dns.family != "either":
        return nodes
    return [node for node in nodes if node.family == socket.AF_INET] or nodes


def _host(node: pycares.AddrInfoNode) -> str:
    host = node.addr[0]
    return str(ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host))


def _failed(name: str, error: DNSError) -> LookupFailed:
    return LookupFailed(f"cannot resolve {name}: {error.args[-1]}", told=error.args[0] in _NOTHING)
