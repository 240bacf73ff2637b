"""What it costs to tell other balancers one's queues, to hear theirs, and to dispatch by them.

Lives here: the measurement. The balancer that is measured is in this process, as a supervisor runs
it; the others are one process more, which tells and listens: `python -m testbed.bench.peers`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import numpy as np
import uvloop

from config.peers import Peers
from lbd.peers.talk import FIGURES_MS, Settings, Talk
from lbd.wire.peers import MAX_BYTES, WORDS, Part, encode, key, pack_figures, pack_keys
from shm.layout import Layout
from shm.region import Region
from shm.worker import WorkerBlock
from testbed.bench.dispatch import choice_us
from testbed.processes import Children, free_ports

SERVICES: Final = 3
BACKENDS: Final = 20
SLOTS: Final = 64
WORKERS: Final = 2
PEERS: Final = (1, 5)
ROWS: Final = (0, 1, 5)
EVERY_MS: Final = 20
SETTLE_S: Final = 1.0
SECONDS: Final = 5.0
ROUNDS: Final = 5
SECRET: Final = b"a secret of the benchmark alone"
DEADLINE_S: Final = 30.0


def run() -> list[dict[str, Any]]:
    """CPU of the supervisor for its peers, and of a choice by SED with more rows to sum."""
    rows = []
    for peers in PEERS:
        shares = [100 * _share(peers) for _ in range(ROUNDS)]
        rows.append(_row(f"supervisor, {SERVICES} x {BACKENDS}, {peers} peers", "% core", shares))
    for slots in (BACKENDS, SLOTS):
        for others in ROWS:
            times_us = choice_us("sed", slots, others)
            rows.append(_row(f"sed, {slots} backends, {others} rows more", "us", times_us))
    return rows


def _row(case: str, unit: str, found: Sequence[float]) -> dict[str, Any]:
    """Medians and extremes."""
    return {
        "case": case,
        "note": unit,
        "median": median(found),
        "least": min(found),
        "most": max(found),
    }


def _share(peers: int) -> float:
    """Of one core."""
    own, *others = free_ports(1 + peers)
    config = Peers.model_validate(
        {
            "listen": f"127.0.0.1:{own}",
            "members": [f"127.0.0.1:{port}" for port in others],
            "every_ms": EVERY_MS,
        }
    )
    services = []
    with contextlib.ExitStack() as stack:
        for number in range(SERVICES):
            region = Region.create(f"bench-{secrets.token_hex(3)}", Layout(2, SLOTS, 64, peers=1))
            stack.callback(region.remove)
            _fill(region)
            services.append((region, str(number)))
        children = stack.enter_context(Children())
        argv = [sys.executable, "-m", "testbed.bench.peers", str(own), *map(str, others)]
        children.start("the other balancers", argv).wait_line("telling", DEADLINE_S)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measured(Settings(config, SECRET), services))


def _fill(region: Region) -> None:
    """Backends that have served for a while."""
    entries = [region.add_backend(f"b{n}", address, 1.0) for n, address in enumerate(_addresses())]
    for worker in range(WORKERS):
        block = WorkerBlock(region, worker)
        for entry in entries:
            block.adopt(entry.slot, entry.identity)
            block.flows[entry.slot] = 3.0
            block.rows["first_byte_total"][entry.slot] = 10**6
        block.publish(time.monotonic_ns())


def _addresses() -> list[str]:
    return [f"10.0.0.{n}:80" for n in range(1, BACKENDS + 1)]


async def _measured(settings: Settings, services: list[tuple[Region, str]]) -> float:
    talk = Talk(settings, lambda: services)
    talk.start()
    await asyncio.sleep(SETTLE_S)
    cpu_s, started_s = time.process_time(), time.monotonic()
    before = [(peer.received_total, peer.sent_total) for peer in talk.peers]
    await asyncio.sleep(SECONDS)
    share = (time.process_time() - cpu_s) / (time.monotonic() - started_s)
    least = 0.5 * SERVICES * SECONDS * 1e3 / EVERY_MS
    for peer, (received, sent) in zip(talk.peers, before, strict=True):
        if min(peer.received_total - received, peer.sent_total - sent) < least:
            raise RuntimeError(f"{peer.name} was not told or not heard")
    await talk.close()
    return share


def tell(target: int, ports: Sequence[int]) -> None:
    """As balancers at these ports would, until this process is ended."""
    keys = pack_keys([key(address) for address in _addresses()])
    words = np.zeros((WORDS, BACKENDS), dtype=np.int64)
    sockets = []
    for port in ports:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
        sockets.append((time.time_ns(), sock))
    print("telling", flush=True)
    for sequence in itertools.count(1):
        # As a balancer does: q each time, all else now and then.
        if sequence * EVERY_MS % FIGURES_MS == 0:
            words[1:] += 7
        told = [Part(keys, [sequence % 9] * BACKENDS, pack_figures(words[0], words))]
        for (sender, sock), service in itertools.product(sockets, range(SERVICES)):
            for data in encode(sender, sequence, key(str(service)), False, told, SECRET):
                sock.sendto(data, ("127.0.0.1", target))
        for _, sock in sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recv(MAX_BYTES)
        time.sleep(EVERY_MS * 1e-3)


if __name__ == "__main__":
    tell(int(sys.argv[1]), [int(port) for port in sys.argv[2:]])
