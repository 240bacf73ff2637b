"""Snapshots, observations and steps out of random numbers, for the tests beside it."""

from __future__ import annotations

import numpy as np

from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import ACTIONS, HIDDEN
from agent.steps import Step
from shm.snapshot import Samples, Snapshot

NOW_NS = 30 * 86_400 * 10**9


def samples(rng: np.random.Generator, rows: int, slots: int, scale_s: float = 0.05) -> Samples:
    age_ns = rng.integers(0, 5 * 10**9, (rows, slots))
    value_s = rng.exponential(scale_s, (rows, slots)) + 0.1 * scale_s
    return Samples((NOW_NS - age_ns).astype(np.uint64), np.rint(value_s * 1e9).astype(np.uint64))


def no_samples(rows: int, slots: int = 8) -> Samples:
    return Samples(np.zeros((rows, slots), np.uint64), np.zeros((rows, slots), np.uint64))


def snapshot(count: int, seed: int = 0, slots: int = 16, **changes: object) -> Snapshot:
    rng = np.random.default_rng(seed)
    values: dict[str, object] = {
        "now_ns": NOW_NS,
        "generation": 1,
        "slots": np.arange(count),
        "identity": np.arange(1, count + 1, dtype=np.uint64),
        "flows": rng.integers(0, 9, count),
        "waiting": rng.integers(0, 3, count),
        "waiting_age_ns": rng.integers(0, 10**8, count),
        "totals": {"flows_total": rng.integers(0, 99, count)},
        "duration": samples(rng, count, slots),
        "fct": samples(rng, count, slots),
        "interarrival": samples(rng, 1, slots),
    }
    values.update(changes)
    return Snapshot(**values)  # type: ignore[arg-type]


def permuted(of: Snapshot, order: np.ndarray) -> Snapshot:
    def rows(kind: Samples) -> Samples:
        return Samples(kind.t_ns[order], kind.value_ns[order])

    return Snapshot(
        of.now_ns,
        of.generation,
        of.slots[order],
        of.identity[order],
        of.flows[order],
        of.waiting[order],
        of.waiting_age_ns[order],
        {name: total[order] for name, total in of.totals.items()},
        rows(of.duration),
        rows(of.fct),
        of.interarrival,
    )


def step(number: int, count: int, rng: np.random.Generator) -> Step:
    normal = rng.standard_normal
    return Step(
        number,
        np.arange(1, count + 1, dtype=np.uint64),
        normal((count, FEATURE_COUNT), np.float32),
        normal(SERVICE_COUNT, np.float32),
        normal((count, HIDDEN), np.float32),
        np.tanh(normal((count, len(ACTIONS)), np.float32)),
        normal(count, np.float32),
    )
