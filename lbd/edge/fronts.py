"""Services that share a listen address, and the gate that they have in common.

Lives here: the grouping, the memory that a gate's tables need, and the making of gates from the
configuration. Never here: what a gate does (`lbd.edge.gate`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from config.address import Address
from config.schema import Config
from config.schema import Service as ServiceConfig
from lbd.edge import table
from lbd.edge.gate import Gate
from lbd.edge.handover import Handover
from lbd.edge.sources import Sources
from lbd.edge.stick import Stick
from lbd.edge.table import SharedTable
from lbd.poller import Poller
from lbd.service import Service


def fronts(services: Sequence[ServiceConfig]) -> list[list[int]]:
    """The positions of services that share an address, a list an address."""
    found: dict[Address, list[int]] = {}
    for index, service in enumerate(services):
        found.setdefault(service.listen, []).append(index)
    return list(found.values())


def create_tables(config: Config) -> dict[str, int]:
    """A descriptor of shared memory for each table that a service asks for, by its name.

    Raises OSError.
    """
    tables = {}
    for service in config.services:
        for name, wanted in (("sources", service.limits.per_source), ("stick", service.stick)):
            if wanted is not None:
                key = f"{service.name}.{name}"
                tables[key] = table.create(wanted.sources, config.workers, key)
    return tables


class GateMaker:
    """In one worker. tables: what `create_tables` made."""

    def __init__(self, tables: dict[str, int], workers: int, index: int, poller: Poller) -> None:
        self._tables = tables
        self._workers = workers
        self._index = index
        self._poller = poller

    def make(self, services: Sequence[Service], max_flows: Sequence[int]) -> Gate | None:
        """The gate of services at one address; None where nothing stands between."""
        if not any(_needs_gate(service.config) for service in services):
            return None
        first = services[0].config
        limits = first.limits.per_source
        sources = None
        if limits is not None:
            sources = Sources(limits, self._table(f"{first.name}.sources", limits.sources))
        handovers = [self._handover(service, sources) for service in services]
        return Gate(services, handovers, max_flows, sources, self._poller)

    def _handover(self, service: Service, sources: Sources | None) -> Handover:
        config = service.config
        stick = None
        if config.stick is not None:
            memory = self._table(f"{config.name}.stick", config.stick.sources)
            stick = Stick(config.stick, memory, service.block.rows["identity"].__getitem__)
        return Handover(config.proxy_out, stick, sources, service.block.count)

    def _table(self, name: str, entries: int) -> SharedTable:
        fd = self._tables[name]
        shared = SharedTable(fd, entries, self._workers, self._index)
        os.close(fd)  # the mapping stays
        return shared


def _needs_gate(config: ServiceConfig) -> bool:
    asked = (config.proxy_in, config.proxy_out, config.sni, config.stick, config.limits.per_source)
    return any(asked)
