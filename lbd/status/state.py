"""What the status page shows of this moment, as plain values that are also valid JSON.

Lives here: which figures of a region a person wants, and what has changed between two moments.
Never here: HTTP, and how it looks (`page.js`). Upstream: `shm.describe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from config.schema import Config
from config.schema import Service as ServiceConfig
from shm import describe
from shm.layout import AGENT_MODES, BACKEND_FAILURES
from shm.region import Region

State = dict[str, Any]


def look(config: Config, regions: Sequence[Region], workers: int, restarts_total: int) -> State:
    """All services, `regions` in their order in `config`; `workers` are those that run."""
    return {
        "workers": workers,
        "workers_configured": config.workers,
        "restarts_total": restarts_total,
        "services": [
            service(one, describe.region(region))
            for one, region in zip(config.services, regions, strict=True)
        ],
    }


def service(config: ServiceConfig, seen: Mapping[str, Any]) -> State:
    """One service of what `describe.region` gives."""
    agent, totals = seen["agent"], seen["totals"]
    in_force = any(worker["weights_in_force"] for worker in seen["workers"])
    return {
        "name": config.name,
        "listen": str(config.listen),
        "policy": config.policy if in_force or config.weights == "static" else config.fallback,
        "weights": "static" if config.weights == "static" else "agent" if in_force else "none",
        "agent": {
            "up": agent["alive"],
            "mode": AGENT_MODES.get(agent["mode"]),
            "age_s": agent["heartbeat_age_s"],
            "step_ms": agent["step_ns"] / 1e6,
            "reward": agent["reward"],
        },
        "accepted_total": totals["accepted_total"],
        "refused_frames_total": sum(
            totals[f"frames_{reason}_total"] for reason in ("torn", "stale", "foreign", "invalid")
        ),
        "backends": [_backend(one, in_force) for one in seen["backends"]],
    }


def _backend(seen: Mapping[str, Any], in_force: bool) -> State:
    given = seen["weight"] if in_force else None
    totals = seen["totals"]
    return {
        "name": seen["name"],
        "address": seen["address"],
        "state": seen["state"],
        "flows": seen["flows_sum"],
        "configured_weight": seen["configured_weight"],
        "weight": seen["configured_weight"] if given is None else given,
        "flows_total": totals["flows_total"],
        "failures_total": sum(totals[name] for name in BACKEND_FAILURES),
        "response_ms": seen["duration_ms"],
    }


class Changes:
    """Turns a series of states into events; each an edge, so that what lasts is told once."""

    def __init__(self) -> None:
        self._before: State | None = None
        self._failing: set[tuple[str, str]] = set()

    def since_last(self, state: State) -> list[str]:
        """What a person would want to know has changed; nothing for the first state."""
        before, self._before = self._before, state
        if before is None:
            return []
        found = []
        died = state["restarts_total"] - before["restarts_total"]
        if died:
            found.append(f"{died} worker{'s' if died > 1 else ''} ended and started again")
        known = {one["name"]: one for one in before["services"]}
        for one in state["services"]:
            if one["name"] in known:
                found += self._service(known.pop(one["name"]), one)
            else:
                found.append(f"{one['name']}: added")
        return found + [f"{name}: removed" for name in known]

    def _service(self, before: State, after: State) -> list[str]:
        name, agent = after["name"], after["agent"]
        found = []
        if agent["up"] != before["agent"]["up"]:
            found.append(f"{name}: the agent has {'come' if agent['up'] else 'gone'}")
        if after["weights"] != before["weights"]:
            found.append(
                f"{name}: {after['policy']} chooses by the agent's weights"
                if after["weights"] == "agent"
                else f"{name}: no fresh weights, {after['policy']} chooses"
            )
        if after["refused_frames_total"] > before["refused_frames_total"]:
            found.append(f"{name}: weights of the agent's refused")
        known = {one["name"]: one for one in before["backends"]}
        for one in after["backends"]:
            at = f"{name}/{one['name']}"
            if one["name"] not in known:
                found.append(f"{at}: added")
                continue
            was = known.pop(one["name"])
            if one["state"] != was["state"]:
                found.append(f"{at}: {was['state']}, now {one['state']}")
            found += self._failures(name, one["failures_total"] - was["failures_total"], one)
        return found + [f"{name}/{gone}: removed" for gone in known]

    def _failures(self, service: str, failed: int, backend: State) -> list[str]:
        key = (service, backend["name"])
        was_failing = key in self._failing
        if failed > 0:
            self._failing.add(key)
        else:
            self._failing.discard(key)
        return [f"{service}/{backend['name']}: fails"] if failed > 0 and not was_failing else []
