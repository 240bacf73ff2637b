"""Servers made warm before anything is measured: every page once on every one of them.

Lives here: that, without quotas while it lasts. Never here: measuring. A cold server has a
fraction of its capacity: compiled code, parsed pages and their caches are each server's own.
"""

from __future__ import annotations

import asyncio

from testbed.lab import pages
from testbed.lab.closed import Tally, ask
from testbed.lab.driver import LabError
from testbed.lab.machine import NamespaceMachine, NamespaceServer

_CLIENTS = 2


def warm(client: NamespaceMachine, servers: list[NamespaceServer], count: int) -> None:
    """Ask each for the first `count` wiki pages. Raises LabError where one does not answer them."""

    targets = [pages.wiki_target(number) for number in range(count)]
    tallies = [Tally() for _ in servers]

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for server, tally in zip(servers, tallies, strict=True):
                asking = ask(server.address, server.port, iter(targets), _CLIENTS, tally)
                group.create_task(asking)

    for server in servers:
        server.set_cores(None)
    client.call(lambda: asyncio.run(work()))
    for server, tally in zip(servers, tallies, strict=True):
        server.set_cores(server.server.cores)
        if tally.failed:
            raise LabError(f"{server.name} fails {tally.failed} pages, as {tally.last_error}")
