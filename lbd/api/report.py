"""What the API says of the daemon, read out of the regions at each request.

Lives here: regions to `lbd.api.models`. Never here: HTTP; any change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from config.schema import Config
from config.schema import Service as ServiceConfig
from lbd.api import models
from lbd.peers.known import Refusal
from lbd.peers.talk import Talk
from shm import histogram, segment
from shm import layout as lo
from shm.reader import Reader
from shm.region import Region
from shm.states import label, state_rows
from shm.weights import newest_weights
from shm.worker import scalars_view

NS_PER_S: Final = 1e9
ORDERS: Final[dict[int, Literal["none", "pause", "shadow"]]] = {
    lo.AGENT_RUN: "none",
    lo.AGENT_PAUSE: "pause",
    lo.AGENT_SHADOW: "shadow",
}


def workers(
    regions: Sequence[Region], pids: dict[int, int], now_ns: int
) -> list[models.WorkerStatus]:
    """`pids` of those that run, by number."""
    beats = [[_scalar(r, w, "heartbeat_ns") for r in regions] for w in _workers(regions[0])]
    return [
        models.WorkerStatus(
            number=number,
            pid=pids.get(number),
            heartbeat_age_s=_age_s(now_ns, min(beat)),
        )
        for number, beat in enumerate(beats)
    ]


def service(config: ServiceConfig, region: Region, now_ns: int) -> models.ServiceStatus:
    reader = Reader(region)
    totals = reader.scalars()
    return models.ServiceStatus(
        name=config.name,
        listen=str(config.listen),
        policy=config.policy,
        fallback=config.fallback,
        weights=config.weights,
        backends=len(config.backends),
        usable=len(region.usable_slots()),
        flows=int(reader.counters()[lo.ROW["flows"]].sum()),
        queued=sum(_scalar(region, w, "queued") for w in _workers(region)),
        max_connections=config.max_connections,
        accepted_total=totals["accepted_total"],
        agent=_agent(region, now_ns),
    )


def backends(
    config: ServiceConfig, file_config: Config, region: Region, now_ns: int
) -> list[models.BackendStatus]:
    """Those on their way out too."""
    reader = Reader(region)
    seen = reader.snapshot(now_ns)
    buckets = reader.histograms()
    states = state_rows(region).copy()
    usable = set(region.usable_slots().tolist())
    given = newest_weights(region) if config.weights == "agent" else None
    in_force = any(_scalar(region, w, "weights_in_force") for w in _workers(region))
    in_file = {
        backend.name: backend
        for service in file_config.services
        if service.name == config.name
        for backend in service.backends
    }
    configured = {backend.name: backend for backend in config.backends}
    rows = []
    for row, entry in enumerate(region.entry(int(slot)) for slot in seen.slots):
        if not entry.identity:
            continue
        word = {name: int(states[at, entry.slot]) for name, at in lo.STATE.items()}
        weight = entry.weight
        if given is not None and in_force and given.known[entry.slot]:
            weight = float(given.weight[entry.slot])
        connect, duration = (
            buckets[entry.slot, lo.HISTOGRAM[kind]] for kind in ("connect", "duration")
        )
        rows.append(
            models.BackendStatus(
                name=entry.name,
                address=entry.address,
                state=label(word["flags"]),
                usable=entry.slot in usable,
                weight=weight,
                configured_weight=entry.weight,
                share=float(states[lo.STATE["share"]].view("<f8")[entry.slot]),
                flows=int(seen.flows[row]),
                max_connections=word["max_flows"] or None,
                waiting=int(seen.waiting[row]),
                sessions_total=int(seen.totals["flows_total"][row]),
                failures_total=sum(int(seen.totals[name][row]) for name in lo.BACKEND_FAILURES),
                connect_ms=_quantile_ms(connect, 0.5),
                response_ms=_quantile_ms(duration, 0.5),
                response_p99_ms=_quantile_ms(duration, 0.99),
                changed=in_file.get(entry.name) != configured.get(entry.name),
            )
        )
    return rows


def peers(talk: Talk | None, now_ns: int) -> models.PeersStatus:
    if talk is None:
        return models.PeersStatus(peers=[], refused_total={})
    return models.PeersStatus(
        peers=[
            models.PeerStatus(
                peer=peer.name,
                up=peer.up,
                heard_age_s=_age_s(now_ns, peer.heard_ns or 0),
                sent_total=peer.sent_total,
                dropped_total=peer.dropped_total,
                received_total=peer.received_total,
                lost_total=peer.lost_total,
            )
            for peer in talk.peers
        ],
        refused_total={reason.value: talk.refused_total[reason] for reason in Refusal},
    )


def _agent(region: Region, now_ns: int) -> models.AgentStatus:
    first = region.layout.agent
    word = {name: region.words[first + at] for name, at in lo.AGENT_SCALAR.items()}
    reward = region.doubles[first + lo.AGENT_REAL["reward"]]
    up = region.segment.locked(segment.AGENT_BYTE)
    return models.AgentStatus(
        up=up,
        mode=lo.AGENT_MODES.get(word["mode"]) if up else None,
        order=ORDERS[region.agent_order],
        heartbeat_age_s=_age_s(now_ns, word["heartbeat_ns"]),
        weights_in_force=sum(_scalar(region, w, "weights_in_force") for w in _workers(region)),
        steps=word["steps_total"],
        last_step_ms=word["step_ns"] / 1e6,
        reward=reward if up and not math.isnan(reward) else None,
    )


def _quantile_ms(counts: NDArray[np.uint64], q: float) -> float | None:
    """Within its bucket by interpolation; None without samples."""
    sums = np.cumsum(counts)
    if not sums[-1]:
        return None
    at = int(np.searchsorted(sums, q * float(sums[-1])))
    bounds_s = (0.0, *histogram.BOUNDS_S, histogram.BOUNDS_S[-1])
    low_s, high_s = list(pairwise(bounds_s))[at]
    below = float(sums[at - 1]) if at else 0.0
    part = (q * float(sums[-1]) - below) / float(counts[at])
    return float(low_s + (high_s - low_s) * part) * 1e3


def _workers(region: Region) -> range:
    return range(region.layout.workers)


def _scalar(region: Region, worker: int, name: str) -> int:
    return int(scalars_view(region, worker)[lo.SCALAR[name]])


def _age_s(now_ns: int, then_ns: int) -> float | None:
    """None for never; 0 for what happened since `now_ns` was looked at."""
    return max(0, now_ns - then_ns) / NS_PER_S if then_ns else None


def changes(found: Sequence[Any]) -> models.Changes:
    """`config.changes.Change`s."""
    return models.Changes(
        changes=[models.Change(key=c.key, before=c.before, after=c.after) for c in found]
    )
