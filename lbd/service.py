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
from functools import partial
from time import monotonic_ns
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from config.address import Address
from config.logs import FlowLog as FlowLogConfig
from config.schema import Service as ServiceConfig
from lbd.capacity import Capacity, Waiting, WaitingRoom
from lbd.dispatch import NONE, Load, Memory, Policy, create
from lbd.dispatch.load import Vector
from lbd.edge.arrival import Arrival
from lbd.edge.egress import egress
from lbd.edge.slow import slow
from lbd.flow import Flow, Outcome
from lbd.flow_log import FlowLog
from lbd.logs import LineWriter
from lbd.measure import MEASURES
from lbd.poller import Poller
from lbd.relay import Relay
from lbd.retry import RetryBudget, Step, next_step
from lbd.sockets import resolve, sockaddr_name
from shm import layout as lo
from shm.histogram import HistogramWriter
from shm.peers import PeerRows
from shm.region import Region, SlotEntry
from shm.states import Flag, StateReader, state_rows
from shm.weights import Refusal, WeightReader, Weights
from shm.worker import WorkerBlock, cache_view

log = logging.getLogger(__name__)


class Carrier(Protocol):
    """What carries a flow: a relay of a connection's bytes, or a session of datagrams."""

    flow: Flow
    idle_since_ns: int

    def client_name(self) -> str:
        """As `lbd.sockets.peer_name` has it."""

    def carried(self) -> tuple[int, int]:
        """Bytes from the client and to it."""

    def check(self, now_ns: int, connect_ns: int, idle_ns: int, total_ns: int) -> None: ...

    def abort(self, outcome: Outcome) -> None: ...


class Service:
    """Raises OSError at construction where a backend's name cannot be resolved."""

    def __init__(
        self,
        config: ServiceConfig,
        region: Region,
        worker: int,
        poller: Poller,
        histograms: bool = False,
        writer: LineWriter | None = None,
    ) -> None:
        self.config = config
        self.region = region
        self.poller = poller
        self.relays: set[Carrier] = set()
        self.on_end: Callable[[Relay], None] = self.relays.discard
        self.block = WorkerBlock(region, worker, config.reservoir.probability)
        self._worker = worker
        self._writer = writer
        self._histograms = HistogramWriter(region, worker) if histograms else None
        self._reader = WeightReader(region)
        self._weights: Weights | None = None
        self._peers = PeerRows(region) if region.layout.peers else None
        self._heard: PeerRows | None = None
        self.address: dict[int, tuple[int, Any]] = {}
        self._rules: object = None
        self._policy: Policy
        self._fallback: Policy
        self._identities: list[int] = []
        self._flow_log: FlowLogConfig | None = None
        self.last_slot = NONE
        self._end_by_ns: dict[int, int] = {}
        self._limited = False
        self._waiting = WaitingRoom()
        self._budget = RetryBudget(config.retry.budget, config.retry.budget_per_s)
        self._queued = 0
        self._serving = False
        self._measure = MEASURES[config.load]
        self._flow = self._measure.flow
        self._ledger = self._measure.ledger(self.block, (), self._histograms)
        self.configure(config)

    def configure(self, config: ServiceConfig) -> None:
        """Go by `config` and by the region's backends from the next flow on; the region is the
        same. Flows that are open stay where they are. Raises OSError and changes nothing where a
        backend's name cannot be resolved.
        """
        identities = self.block.rows["identity"]
        flags = state_rows(self.region)[lo.STATE["flags"]].tolist()
        entries, newcomers = [], []
        for entry in self.region.entries():
            if identities[entry.slot] == entry.identity:
                entries.append(entry)
            elif not flags[entry.slot] & Flag.LEAVING:
                # One that leaves and has never been here needs no address any more.
                entries.append(entry)
                newcomers.append(entry)
        found = {e.slot: resolve(Address.parse(e.address)) for e in newcomers}
        for entry in newcomers:
            self.block.adopt(entry.slot, entry.identity)
        self.address = {e.slot: found.get(e.slot) or self.address[e.slot] for e in entries}
        self.config = config

        rules = (config.policy, config.fallback, config.weights, config.ewma, config.hash_bound)
        present = [entry.identity for entry in entries]
        if rules != self._rules or present != self._identities:
            known = self._identities if rules == self._rules else ()
            self._decide(config, entries, [e.slot for e in entries if e.identity in known])
            self._rules, self._identities = rules, present
        else:
            self._follow_states()

        queue, retry = config.queue, config.retry
        workers = self.region.layout.workers
        self._waiting.bound(-(-queue.size // workers), queue.timeout_ms * 1_000_000)
        self._budget.bound(retry.budget, retry.budget_per_s)
        self._log_flows(config.flow_log)

        timeouts = config.timeouts
        self._connect_ns = timeouts.connect_ms * 1_000_000
        self._idle_ns = int(timeouts.idle_s * 1e9)
        self._total_ns = int((timeouts.total_s or 0) * 1e9)
        self._slow = slow(config.limits)
        self.egress = egress(config.source)

    def _log_flows(self, config: FlowLogConfig | None) -> None:
        """Flows that are open when this changes are not logged."""
        if config == self._flow_log or self._writer is None:
            return
        self._flow_log = config
        log = None
        if config is not None:
            log = FlowLog(config, self.config.name, self.region, self.block, self._writer)
        self._ledger.log = log

    def _decide(
        self, config: ServiceConfig, entries: Sequence[SlotEntry], stay: Sequence[int]
    ) -> None:
        """Policies for these backends. stay: slots of which the policies of so far, the same rules,
        know what goes on to count."""
        region, worker = self.region, self._worker
        configured = np.ones(region.layout.slots)
        for entry in entries:
            configured[entry.slot] = entry.weight
        memory = Memory(flows=config.ewma.memory_flows, seconds=config.ewma.memory_s)
        slots = [entry.slot for entry in entries]
        rows = self._measure.rows
        self._load = _load(region, worker, slots, configured, rows)
        self._fallback_load = _load(region, worker, slots, configured, rows)
        for load in (self._load, self._fallback_load):
            load.names = {entry.slot: entry.address for entry in entries}
            load.count_also(self._heard)
        if self._weights is not None:
            self._weigh(self._weights)
        policy = create(config.policy, self._load, memory, config.hash_bound)
        fallback = create(config.fallback, self._fallback_load, memory, config.hash_bound)
        if stay:
            policy.inherit(self._policy, stay)
            fallback.inherit(self._fallback, stay)
        self._policy, self._fallback = policy, fallback
        self._wants_weights = config.weights == "agent"
        if not self._wants_weights:
            self._weights = None
            self.block.scalars[lo.SCALAR["weights_in_force"]] = 0
        waits = self._wants_weights and self._weights is None
        self._in_force = self._fallback if waits else self._policy
        policies = [self._policy]
        if self._wants_weights:
            policies.append(self._fallback)
        self._ledger.policies = policies
        places = _load(region, worker, slots, configured, MEASURES["flows"].rows)
        self._capacity = Capacity(places, self.block.flows)
        self._states = StateReader(region)
        self._follow_states()

    @property
    def policy(self) -> Policy:
        """The one that chooses at this moment."""
        return self._in_force

    @property
    def weights_in_force(self) -> bool:
        """Whether the agent's weights are."""
        return self._weights is not None

    # -- flows

    def open(self, client: socket.socket, peer: object, arrival: Arrival | None = None) -> None:
        """Give an accepted connection to a backend. arrival: what the gate knows of it, if any."""
        now_ns = monotonic_ns()
        block = self.block
        block.count("accepted_total")
        policy = self._in_force
        key = _key(peer) if policy.uses_key else 0
        if self._limited:
            self._open_limited(Waiting(client, key, now_ns, arrival))
            return
        slot = NONE if arrival is None else arrival.recall(policy.load.usable, now_ns)
        if slot == NONE:
            slot = policy.choose(now_ns, key)
        if slot == NONE:
            self._close(Waiting(client, key, now_ns, arrival), "no_backend_total")
            return
        self._start(client, slot, now_ns, arrival)

    def _start(
        self, client: socket.socket, slot: int, now_ns: int, arrival: Arrival | None
    ) -> None:
        self.last_slot = slot
        flow = self._flow(self._ledger, slot, now_ns)
        relay = Relay(self.poller, flow, client, self.on_end, self._retry)
        if arrival is not None:
            arrival.given(slot, now_ns)
            relay.arrival = arrival
        if self._ledger.log:
            self._ledger.log.opened(flow, relay.client_name)
        self.relays.add(relay)
        relay.connect(*self.address[slot], self.egress)

    def dispatch(self, peer: object, now_ns: int, tried: tuple[int, ...] = ()) -> Flow | None:
        """A new flow that cannot wait, on a backend with room that was not `tried`, for one more
        attempt within the budget; or None."""
        policy = self._in_force
        key = _key(peer) if policy.uses_key else 0
        limited = self._limited or bool(tried)
        if tried and not self._affords(now_ns):
            return None
        slot = self._claim(now_ns, key, tried) if limited else policy.choose(now_ns, key)
        if slot == NONE:
            self.block.count("no_backend_total")
            return None
        if tried:
            self._budget.spend()
        self.last_slot = slot
        flow = self._flow(self._ledger, slot, now_ns)
        if self._ledger.log:
            self._ledger.log.opened(flow, partial(sockaddr_name, peer))
        if limited:
            self._capacity.release(slot)
        return flow

    def check(self, now_ns: int) -> None:
        """Limits and byte counts of all open flows."""
        self._budget.look(now_ns, self._accepted())
        for relay in list(self.relays):
            if self._slow and self._slow.judge(relay.flow, relay.carried()[0], now_ns):
                relay.abort(Outcome.SLOW_CLIENT)
                continue
            relay.check(now_ns, self._connect_ns, self._idle_ns, self._total_ns)
        if self._end_by_ns:
            self._end_overdue(now_ns)

    def check_every_s(self) -> float:
        """Often enough that no limit passes by more than a quarter."""
        limits_ns = [self._connect_ns, self._idle_ns, self._total_ns or self._idle_ns]
        if self._slow is not None:
            limits_ns.append(self._slow.within_ns)
        return min(0.5, max(0.01, min(limits_ns) * 1e-9 / 4))

    def shut(self) -> None:
        """End every flow now, also those that wait for a backend."""
        while self._queued:
            self._close(self._leave_queue(), "queue_shutdown_total")
        for relay in list(self.relays):
            relay.abort(Outcome.SHUTDOWN)

    # -- states of the backends

    def _follow_states(self) -> None:
        """What the supervisor says of the backends, where it says anything new."""
        found = self._states.poll()
        if found is None:
            return
        slots = self._load.slots
        # A slot that has changed hands is not usable before `configure` has met its new user.
        met, present = self.block.rows["identity"], self.region.identities()
        known = [s for s in self.address if met[s] == int(present[s])]
        usable = [s for s in found.usable if s in known]
        if found.usable and not usable:
            # All were exchanged, and `configure` is on its way: until then those that leave go on.
            usable = [s for s in known if found.flags[s] == Flag.LEAVING]
        for load in (self._load, self._fallback_load):
            load.usable = usable
            load.share[:] = found.share[:slots]
        self._fallback_load.weight[:] = found.weight[:slots]
        if not self._wants_weights:
            self._load.weight[:] = found.weight[:slots]
        self._policy.refresh()
        self._fallback.refresh()
        self._capacity.max_flows = found.max_flows[:slots].tolist()
        self._limited = any(self._capacity.max_flows[slot] for slot in usable)
        self._end_by_ns = {
            slot: int(found.end_by_ns[slot]) for slot in self.address if found.end_by_ns[slot]
        }

    def _end_overdue(self, now_ns: int) -> None:
        """Flows of backends that were withdrawn, and had time enough."""
        for relay in list(self.relays):
            deadline_ns = self._end_by_ns.get(relay.flow.slot)
            if deadline_ns is not None and now_ns >= deadline_ns:
                relay.abort(Outcome.WITHDRAWN)

    # -- limits of the backends, and the queue before them

    def connections(self) -> int:
        """Clients connected, those in the queue included."""
        return len(self.relays) + self._queued

    def _open_limited(self, one: Waiting) -> None:
        if not self._queued and self._give(one, one.since_ns):
            return
        if not self._load.usable:
            self._close(one, "no_backend_total")
        elif self._waiting.enter(one):
            self._queued += 1
            self.block.count("queued")
            self.block.count("queued_total")
        else:
            self._close(one, "queue_full_total")

    def _give(self, one: Waiting, now_ns: int) -> bool:
        """To a backend with room. False where there is none."""
        slot = NONE
        if one.arrival is not None:
            slot = one.arrival.recall(self._load.usable, now_ns)
        if slot == NONE or not self._capacity.claim(slot):
            slot = self._claim(now_ns, one.key, ())
        if slot == NONE:
            return False
        self._start(one.client, slot, now_ns, one.arrival)
        self._capacity.release(slot)
        return True

    def _close(self, one: Waiting, counter: str) -> None:
        """There will be no flow."""
        self.block.count(counter)
        one.client.close()
        if one.arrival is not None:
            one.arrival.ended(NONE, one.since_ns)

    def _claim(self, now_ns: int, key: int, tried: tuple[int, ...]) -> int:
        """A place at a backend, to be released once the flow is on its account; NONE if all are
        full or barred by `tried`."""
        policy, capacity = self._in_force, self._capacity
        if not tried:
            slot = policy.choose(now_ns, key)
            if slot == NONE or capacity.claim(slot):
                return slot
        barred = {*tried, *capacity.full(self._load.usable)}
        while (slot := policy.choose_but(now_ns, key, barred)) != NONE:
            if capacity.claim(slot):
                break
            barred.add(slot)
        return slot

    def serve_queue(self) -> None:
        """Give to backends what waits, once this batch of events is through."""
        if self._queued and not self._serving:
            self._serving = True
            self.poller.call_again(self._serve_queue)

    def _serve_queue(self) -> None:
        self._serving = False
        now_ns = monotonic_ns()
        while self._waiting.overdue(now_ns):
            self._close(self._leave_queue(), "queue_timeout_total")
        while self._queued and self._give(self._waiting.first(), now_ns):
            self._leave_queue()

    def _leave_queue(self) -> Waiting:
        self._queued -= 1
        self.block.count("queued", -1)
        return self._waiting.leave()

    # -- further attempts

    def _retry(self, relay: Relay, outcome: Outcome) -> bool:
        """A backend failed before it took a byte: whether the flow goes on elsewhere."""
        slot, now_ns = relay.flow.slot, monotonic_ns()
        relay.tried = (*relay.tried, slot)
        rule, block = self.config.retry, self.block
        step = next_step(rule, relay.tried)
        if step is Step.NONE:
            return False
        if not self._affords(now_ns):
            return False
        following = self._other(relay, now_ns) if step is Step.OTHER else slot
        if following == NONE:
            return False
        self._budget.spend()
        # On its account before it leaves the last one: a limited backend is never over its limit.
        flow = self._flow(self._ledger, following, now_ns)
        if self._ledger.log:
            self._ledger.log.opened(flow, relay.client_name)
        relay.leave(outcome, now_ns)
        relay.flow = flow
        if step is Step.OTHER:
            self._capacity.release(following)
            block.rows["redispatched_total"][slot] += 1
            if relay.arrival is not None:
                relay.arrival.moved(following, now_ns)
            relay.connect(*self.address[following], self.egress)
            return True
        block.rows["retried_total"][slot] += 1

        def again() -> None:
            if relay.flow is flow and flow.outcome is None:
                relay.idle_since_ns = monotonic_ns()
                relay.connect(*self.address[slot], self.egress)

        self.poller.call_later(rule.pause_ms * 1e-3, again)
        return True

    def _accepted(self) -> int:
        return self.block.scalars[lo.SCALAR["accepted_total"]]

    def _affords(self, now_ns: int) -> bool:
        """Whether the budget has one more attempt; counted where not."""
        if self._budget.allows(now_ns, self._accepted()):
            return True
        self.block.count("retry_refused_total")
        return False

    def _other(self, relay: Relay, now_ns: int) -> int:
        """A claimed place at a backend that has not failed this flow."""
        try:
            key = _key(_peer(relay)) if self._in_force.uses_key else 0
        except OSError:
            return NONE  # the client has gone
        return self._claim(now_ns, key, relay.tried)

    # -- weights

    def refresh(self, now_ns: int) -> None:
        """Take new weights, let old ones expire, publish the counters."""
        if self._wants_weights:
            self._poll_weights(now_ns)
        self._follow_states()
        if self._peers is not None:
            self._follow_peers(self._peers, now_ns)
        if self._queued:
            # Flows may have ended in other workers.
            self.serve_queue()
        self.block.publish(now_ns)

    def _follow_peers(self, peers: PeerRows, now_ns: int) -> None:
        """Count other balancers' flows for as long as they are heard; never for limits."""
        heard = peers if peers.heard(now_ns) else None
        if heard is self._heard:
            return
        self._heard = heard
        for load in (self._load, self._fallback_load):
            load.count_also(heard)
        self._policy.refresh()
        self._fallback.refresh()

    def _weigh(self, found: Weights) -> None:
        self._load.weight[:] = found.weight[: self._load.slots]
        self._load.offset = found.offset

    def _poll_weights(self, now_ns: int) -> None:
        found = self._reader.poll(now_ns)
        block = self.block
        if isinstance(found, Refusal):
            block.count(found.value)
        elif found is not None:
            block.count("frames_applied_total")
            block.count("weights_foreign_total", found.foreign)
            self._weigh(found)
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


def _peer(relay: Relay) -> object:
    """Whom the flow is from. Raises OSError where that is no longer known."""
    return relay.arrival.peer if relay.arrival is not None else relay.client.sock.getpeername()


def _key(peer: object) -> int:
    """What the same client has in common in every worker: its address without the port."""
    host = peer[0] if isinstance(peer, tuple) else str(peer)
    return crc32(str(host).encode())
