"""What an operator may ask a worker about one of its services, as plain JSON values.

Lives here: open flows, and why the last choice fell as it did. Never here: any change.
"""

from __future__ import annotations

import heapq
from typing import Any

from lbd.flow import Flow
from lbd.service import Carrier, Service

NS_PER_S = 1e9


def flows(service: Service, now_ns: int, limit: int) -> list[dict[str, Any]]:
    """The oldest open flows. Ages in seconds; `state`: connecting, waiting or answered."""
    oldest = heapq.nsmallest(limit, service.relays, key=lambda relay: relay.flow.accepted_ns)
    return [_flow(service, relay, now_ns) for relay in oldest]


def explain(service: Service) -> dict[str, Any]:
    """The last choice of this worker, each backend's score then and now, its q and weight now.

    The least score wins; None where the policy in force compares none, and where it has not chosen
    yet.
    """
    policy = service.policy
    load = policy.load
    scores = policy.scores()
    names = {entry.slot: entry.name for entry in service.region.entries()}
    rows = []
    for slot in range(load.slots):
        if slot not in names:
            continue
        usable = slot in load.usable
        score = scores[slot] if scores is not None and usable else None
        rows.append(
            {
                "backend": names[slot],
                "usable": usable,
                "q": load.q(slot),
                "weight": float(load.weight[slot]),
                "score": None if score is None else score.now,
                "last_score": None if score is None else score.last,
                "chosen": slot == service.last_slot,
            }
        )
    return {
        "policy": policy.name,
        "weights": "agent" if service.weights_in_force else "configured",
        "backends": rows,
    }


def _flow(service: Service, carrier: Carrier, now_ns: int) -> dict[str, Any]:
    flow = carrier.flow
    bytes_in, bytes_out = carrier.carried()
    return {
        "client": carrier.client_name(),
        "backend": service.region.entry(flow.slot).name,
        "state": _state(flow),
        "age_s": (now_ns - flow.accepted_ns) / NS_PER_S,
        "idle_s": (now_ns - carrier.idle_since_ns) / NS_PER_S,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
    }


def _state(flow: Flow) -> str:
    if not flow.connected_ns:
        return "connecting"
    return "waiting" if flow.waiting else "answered"
