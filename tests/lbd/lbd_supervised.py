"""The supervisor in the test's own process, for what is ordered of it by calls.

Lives here: its start and its end. Never here: traffic. Its workers are processes as ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic_ns
from typing import Any

import lbd_daemon as ld
from lbd_waiting import until

from config.schema import Config
from lbd.supervisor import Supervisor
from shm.errors import RegionAbsent


@asynccontextmanager
async def supervised(service: dict[str, Any], workers: int = 1) -> AsyncIterator[Supervisor]:
    """Serving when it is entered; stopped in order when it is left."""
    config = Config.model_validate({"workers": workers, "services": [service]})
    supervisor = Supervisor(config, "unused.yaml")
    running = asyncio.create_task(supervisor.run())
    try:
        await settle(lambda: running.done() or _serving(service["name"]), "the workers serving")
        yield supervisor
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await running


async def settle(what: Callable[[], object], text: str) -> None:
    """Wait for a condition without holding up the supervisor."""
    await asyncio.to_thread(until, what, text)


def _serving(name: str) -> bool:
    try:
        with ld.attached(name) as region:
            return all(ld.heartbeats(region))
    except RegionAbsent:
        return False


def told(name: str) -> bool:
    """Waits until every worker has read the states anew."""
    since_ns = monotonic_ns()  # a heartbeat is of the moment before the states are read
    with ld.attached(name) as region:

        def all_newer() -> bool:
            return all(beat_ns > since_ns for beat_ns in ld.heartbeats(region))

        return until(all_newer, "a heartbeat of each worker")
