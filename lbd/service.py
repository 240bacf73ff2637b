"""One service inside one worker: its backends, its policy in force, its flows.

Lives here: what ties dispatch, relay and shared memory together for a service; which of the two
policies chooses. Never here: accepting (`lbd.listener`), how bytes move (`lbd.relay`).
The agent is never waited for: `refresh` looks for weights every few milliseconds, and while there
are none that hold, the fallback chooses.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Protocol
from zlib import crc32

import numpy as np

from config.schema import Service as ServiceConfig
from lbd.dispatch import NONE, Load, Memory, create
from lbd.dispatch.load import Vector
from lbd.flow import Flow, Outcome
from lbd.measure import MEASURES
from lbd.poller import Poller
from lbd.relay import Relay
from lbd.sockets import resolve
from shm import layout as lo
from shm.region import Region
from shm.weights import Refusal, WeightReader, Weights
from shm.worker import WorkerBlock, cache_view

log = logging.getLogger(__name__)


class Carrier(Protocol):
    """What carries a flow: a relay of a connection's bytes, or a session of datagrams."""

    def check(self, now_ns: int, connect_ns: int, idle_ns: int, total_ns: int) -> None: ...

    def abort(self, outcome: Outcome) -> None: ...


class Service:
    """Raises OSError at construction where a backend's name cannot be resolved."""

    def __init__(self, config: ServiceConfig, region: Region, worker: int, poller: Poller) -> None:
        self.config = config
        self.region = region
        self.poller = poller
        self.relays: set[Carrier] = set()
        self.on_end: Callable[[Relay], None] = self.relays.discard
        self.block = WorkerBlock(region, worker, config.reservoir.probability)
        self._reader = WeightReader(region)
        self._weights: Weights | None = None

        entries = region.entries()
        by_name = {backend.name: backend for backend in config.backends}
        self.address = {e.slot: resolve(by_name[e.name].address) for e in entries}
        for entry in entries:
            self.block.adopt(entry.slot, entry.identity)

        self._configured = np.ones(region.layout.slots)
        for entry in entries:
            self._configured[entry.slot] = entry.weight
        memory = Memory(flows=config.ewma.memory_flows, seconds=config.ewma.memory_s)
        usable = [entry.slot for entry in entries]
        measure = MEASURES[config.load]
        self._load = _load(region, worker, usable, self._configured, measure.rows)
        self._fallback_load = _load(region, worker, usable, self._configured, measure.rows)
        self._policy = create(config.policy, self._load, memory)
        self._fallback = create(config.fallback, self._fallback_load, memory)
        self._wants_weights = config.weights == "agent"
        self._in_force = self._fallback if self._wants_weights else self._policy
        policies = [self._policy]
        if self._wants_weights:
            policies.append(self._fallback)
        self._ledger = measure.ledger(self.block, policies)
        self._flow = measure.flow

        timeouts = config.timeouts
        self._connect_ns = timeouts.connect_ms * 1_000_000
        self._idle_ns = int(timeouts.idle_s * 1e9)
        self._total_ns = int((timeouts.total_s or 0) * 1e9)

    # -- flows

    def open(self, client: socket.socket, peer: object) -> None:
        """Give an accepted connection to a backend."""
        self.block.count("accepted_total")
        flow = self.dispatch(peer, monotonic_ns())
        if flow is None:
            client.close()
            return
        relay = Relay(self.poller, flow, client, self.on_end)
        self.relays.add(relay)
        relay.connect(*self.address[flow.slot])

    def dispatch(self, peer: object, now_ns: int, tried: Sequence[int] = ()) -> Flow | None:
        """A new flow on a backend, on none that was `tried` if there is another; None if none."""
        policy = self._in_force
        slot = policy.choose(now_ns, _key(peer) if policy.uses_key else 0)
        if slot == NONE:
            self.block.count("no_backend_total")
            return None
        if slot in tried:
            slot = next((s for s in policy.load.usable if s not in tried), slot)
        return self._flow(self._ledger, slot, now_ns)

    def check(self, now_ns: int) -> None:
        """Limits and byte counts of all open flows."""
        for relay in list(self.relays):
            relay.check(now_ns, self._connect_ns, self._idle_ns, self._total_ns)

    def check_every_s(self) -> float:
        """Often enough that no limit passes by more than a quarter."""
        limits_ns = [self._connect_ns, self._idle_ns, self._total_ns or self._idle_ns]
        return min(0.5, max(0.01, min(limits_ns) * 1e-9 / 4))

    def shut(self) -> None:
        """End every flow now."""
        for relay in list(self.relays):
            relay.abort(Outcome.SHUTDOWN)

    # -- weights

    def refresh(self, now_ns: int) -> None:
        """Take new weights, let old ones expire, publish the counters."""
        if self._wants_weights:
            self._poll_weights(now_ns)
        self.block.publish(now_ns)

    def _poll_weights(self, now_ns: int) -> None:
        found = self._reader.poll(now_ns)
        block = self.block
        if isinstance(found, Refusal):
            block.count(found.value)
        elif found is not None:
            block.count("frames_applied_total")
            block.count("weights_foreign_total", found.foreign)
            self._load.weight[:] = found.weight[: self._load.slots]
            self._policy.refresh()
            if self._weights is None:
                log.info("service %s: the agent's weights are in force", self.config.name)
            self._weights = found
            self._in_force = self._policy
            block.scalars[lo.SCALAR["weights_seq"]] = found.sequence
            block.scalars[lo.SCALAR["weights_in_force"]] = 1
        if self._weights is not None and self._weights.expires_ns <= now_ns:
            self._weights = None
            self._in_force = self._fallback
            block.count("fallback_total")
            block.scalars[lo.SCALAR["weights_in_force"]] = 0
            log.warning(
                "service %s: no fresh weights, %s chooses", self.config.name, self._fallback.name
            )


def _load(
    region: Region, worker: int, usable: list[int], weight: Vector, rows: tuple[str, str, str]
) -> Load:
    """The live rows of all workers, this one's first, cut to the slots in use."""
    span = max(usable) + 1
    order = [worker, *(w for w in range(region.layout.workers) if w != worker)]
    caches = [cache_view(region, w)[:, :span] for w in order]
    q, waiting, waiting_start_ns = (lo.ROW[name] for name in rows)
    return Load(
        flows=[cache[q].view("<f8") for cache in caches],
        waiting=[cache[waiting].view("<i8") for cache in caches],
        waiting_start_ns=[cache[waiting_start_ns].view("<i8") for cache in caches],
        usable=usable,
        weight=weight[:span].copy(),
    )


def _key(peer: object) -> int:
    """What the same client has in common in every worker: its address without the port."""
    host = peer[0] if isinstance(peer, tuple) else str(peer)
    return crc32(str(host).encode())
