"""What an operator wants to know of a region, as plain values that are also valid JSON.

Lives here: which numbers, and their units. Never here: how they are printed (`shm.cli`); any write
to a region.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np

from shm import layout as lo
from shm import segment
from shm.errors import RegionError
from shm.peers import PeerRows
from shm.reader import Reader
from shm.region import Region
from shm.snapshot import Exchanges, Samples
from shm.states import label, state_rows
from shm.weights import newest_weights
from shm.worker import cache_view, scalars_view

NS_PER_S = 1e9
NS_PER_MS = 1e6


def region(live: Region) -> dict[str, Any]:
    """Everything that `dump` shows. Ages and lives in seconds, durations in milliseconds."""
    now_ns = time.monotonic_ns()
    layout = live.layout
    agent = live.words[layout.agent : layout.agent + len(lo.AGENT_SCALARS)]
    return {
        "service": live.service,
        "generation": live.generation,
        "owner": {
            "pid": live.owner_pid,
            "alive": live.owner_alive(),
            "heartbeat_age_s": _age_s(now_ns, live.heartbeat_ns),
        },
        "agent": {
            "alive": live.segment.locked(segment.AGENT_BYTE),
            "heartbeat_age_s": _age_s(now_ns, agent[lo.AGENT_SCALAR["heartbeat_ns"]]),
            **{name: agent[i] for name, i in lo.AGENT_SCALAR.items() if name != "heartbeat_ns"},
            **{name: _real(live, layout.agent + i) for name, i in lo.AGENT_REAL.items()},
        },
        "geometry": {
            "workers": layout.workers,
            "slots": layout.slots,
            "reservoir": layout.reservoir,
            "depth": layout.depth,
            "bytes": layout.total_bytes,
        },
        "backends": _backends(live, now_ns),
        "workers": [_worker(live, index, now_ns) for index in range(layout.workers)],
        "totals": Reader(live).scalars(),
    }


def one(service: str) -> dict[str, Any]:
    """One line of `list`. Never raises for what is in the segment; `problem` says what it is."""
    found: dict[str, Any] = {
        "service": service,
        "bytes": None,
        "age_s": None,
        "generation": None,
        "owner_pid": None,
        "alive": None,
        "agent": None,
        "problem": None,
    }
    try:
        status = os.stat(segment.DIRECTORY / f"{segment.PREFIX}{service}")
        found["bytes"] = status.st_size
        # Stores through a mapping do not touch it: the time of creation, also of garbage.
        found["age_s"] = max(time.time() - status.st_mtime, 0.0)
        found["alive"] = segment.role_held(service, segment.OWNER_BYTE)
        found["agent"] = segment.role_held(service, segment.AGENT_BYTE)
        live = Region.attach(service)
    except (RegionError, OSError) as error:
        found["problem"] = str(error)
        return found
    found["generation"] = live.generation
    found["owner_pid"] = live.owner_pid
    live.close()
    return found


def _backends(live: Region, now_ns: int) -> list[dict[str, Any]]:
    seen = Reader(live).snapshot(now_ns)
    given = newest_weights(live)
    flags = state_rows(live)[lo.STATE["flags"]]
    caches = [cache_view(live, worker) for worker in range(live.layout.workers)]
    rows = []
    for row, entry in enumerate(live.entry(int(slot)) for slot in seen.slots):
        if entry.identity != int(seen.identity[row]):
            continue  # its slot has changed hands since
        flows = [
            int(cache[lo.ROW["flows"]].view("<f8")[entry.slot])
            if int(cache[lo.ROW["identity"], entry.slot]) == entry.identity
            else 0
            for cache in caches
        ]
        waiting = int(seen.waiting[row])
        has_weight = given is not None and given.known[entry.slot]
        rows.append(
            {
                "slot": entry.slot,
                "identity": entry.identity,
                "name": entry.name,
                "address": entry.address,
                "state": label(int(flags[entry.slot])),
                "configured_weight": entry.weight,
                "weight": float(given.weight[entry.slot]) if given and has_weight else None,
                "weight_age_s": _age_s(now_ns, given.written_ns) if given and has_weight else None,
                "weight_left_s": (given.expires_ns - now_ns) / NS_PER_S
                if given and has_weight
                else None,
                "flows": flows,
                "flows_sum": sum(flows),
                "waiting": waiting,
                "waiting_mean_age_ms": int(seen.waiting_age_ns[row]) / waiting / NS_PER_MS
                if waiting > 0
                else None,
                "totals": {name: int(total[row]) for name, total in seen.totals.items()},
                "duration_ms": _samples(seen.duration, row),
                "fct_ms": _samples(seen.fct, row),
                **_exchanges(seen.exchanges, row),
                **_peers(live, entry.slot, now_ns),
            }
        )
    return rows


def _exchanges(of: Exchanges | None, row: int) -> dict[str, Any]:
    """Nothing where the service does not tell them apart."""
    if of is None:
        return {}
    waiting = int(of.waiting[row])
    return {
        "busy": int(of.busy[row]),
        "exchanges": waiting,
        "exchanges_mean_age_ms": int(of.waiting_age_ns[row]) / waiting / NS_PER_MS
        if waiting > 0
        else None,
        "exchange_ms": _samples(of.latency, row),
    }


def _peers(live: Region, slot: int, now_ns: int) -> dict[str, Any]:
    """Nothing where other balancers are not asked; None while none is heard."""
    if not live.layout.peers:
        return {}
    rows = PeerRows(live)
    return {"peers_q": int(rows.q[slot]) if rows.heard(now_ns) else None}


def _samples(of: Samples, row: int) -> dict[str, Any]:
    values_ms = of.value_ns[row][of.t_ns[row] > 0] / NS_PER_MS
    if not len(values_ms):
        return {"samples": 0, "mean": None, "p90": None}
    return {
        "samples": len(values_ms),
        "mean": float(values_ms.mean()),
        "p90": float(np.percentile(values_ms, 90)),
    }


def _worker(live: Region, index: int, now_ns: int) -> dict[str, Any]:
    words = scalars_view(live, index)
    values = {name: int(words[at]) for name, at in lo.SCALAR.items()}
    beat_ns = values.pop("heartbeat_ns")
    return {"worker": index, "heartbeat_age_s": _age_s(now_ns, beat_ns), **values}


def _real(live: Region, word: int) -> float | None:
    value = live.doubles[word]
    return None if math.isnan(value) else value


def _age_s(now_ns: int, then_ns: int) -> float | None:
    """None where it never happened."""
    return (now_ns - then_ns) / NS_PER_S if then_ns else None
