"""Means by counters: what steady traffic, a newcomer and an agent's restart leave in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from make import NOW_NS, no_samples, snapshot

from agent.averages import ANSWERS_TOTAL, DURATION_TOTAL, MEMORIES_FLOWS, Averages, follow
from shm.snapshot import Snapshot

STEP_S = 0.25
RATE = np.array([20.0, 80.0, 40.0])
LATENCY_S = np.array([0.1, 0.1, 0.4])


def seen(steps: int, count: int = 3, since: int = 0) -> Snapshot:
    """What steady servers have answered after so many steps; the last has been there since one."""
    answers = (RATE[:count] * STEP_S * steps).astype(np.int64)
    answers[-1] = int(RATE[count - 1] * STEP_S * (steps - since))
    totals = {
        ANSWERS_TOTAL: answers,
        DURATION_TOTAL: (answers * LATENCY_S[:count] * 1e9).astype(np.int64),
    }
    flows = np.rint(RATE * LATENCY_S).astype(np.int64)[:count]
    return replace(
        snapshot(count, duration=no_samples(count), totals=totals, flows=flows),
        now_ns=NOW_NS + int(steps * STEP_S * 1e9),
    )


def followed(steps: int, found: Averages | None = None, begin: int = 0) -> Averages:
    for step in range(begin, begin + steps + 1):
        found = follow(seen(step), found, STEP_S)
    assert found is not None
    return found


def test_littles_law_tells_the_queue_of_each_memory() -> None:
    found = followed(1200)
    assert found.mean_s() == pytest.approx(np.tile(LATENCY_S[:, None], 3), rel=0.2)
    assert found.busy()[:, 0] == pytest.approx(RATE * LATENCY_S, rel=0.2)
    assert found.busy()[:, 1] == pytest.approx(RATE * LATENCY_S, rel=0.05)


def test_a_newcomer_begins_as_one_of_all_and_finds_its_own_queue() -> None:
    found = follow(seen(400, 2), None, STEP_S)
    for step in range(401, 420):
        found = follow(seen(step, 2), found, STEP_S)
    least, most = found.busy().min(axis=0), found.busy().max(axis=0)
    found = follow(seen(420, 3, since=420), found, STEP_S)
    assert (found.busy()[2] > 0.5 * least).all()
    assert (found.busy()[2] < most).all()
    for step in range(421, 700):
        found = follow(seen(step, 3, since=420), found, STEP_S)
    assert found.busy()[2, 1] == pytest.approx(16.0, rel=0.1)


def test_an_agent_that_comes_late_takes_the_queues_for_what_they_always_were() -> None:
    """The counters hold all that was ever answered; since when, they do not say."""
    late = follow(seen(4000), None, STEP_S)
    first = late.busy()[:, MEMORIES_FLOWS.index(300.0)]
    assert first == pytest.approx(RATE * LATENCY_S + 1.0, rel=0.2)
    settled = followed(300, late, begin=4001).busy()[:, 1]
    assert settled == pytest.approx(RATE * LATENCY_S, rel=0.1)


def test_one_that_goes_silent_loses_its_queue_and_then_its_record() -> None:
    found = followed(200)
    stuck = found.answers_total[2]
    for step in range(201, 260):
        shot = seen(step)
        totals = {name: total.copy() for name, total in shot.totals.items()}
        totals[ANSWERS_TOTAL][2], totals[DURATION_TOTAL][2] = stuck, found.duration_total_ns[2]
        found = follow(replace(shot, totals=totals), found, STEP_S)
    assert found.busy()[2, 0] < 0.5 * RATE[2] * LATENCY_S[2]


def test_one_that_came_late_is_not_charged_for_it_when_the_agent_starts_anew() -> None:
    """The counters hold what was answered in all of a backend's life, long or short."""
    found = follow(seen(40_000, since=39_900), None, STEP_S)
    assert not found.rate_per_s.any()
    for step in range(40_001, 40_200):
        found = follow(seen(step, since=39_900), found, STEP_S)
        assert (found.charge() == 1.0).all()
    assert found.rate_per_s / found.seen == pytest.approx(RATE, rel=0.1)


def test_one_that_comes_back_brings_no_rush_of_answers() -> None:
    """Its counters went on from where they were; the others' records stay."""
    found = followed(400)
    for step in range(401, 410):
        found = follow(seen(step, 2), found, STEP_S)
    before = found.weight
    found = follow(seen(410), found, STEP_S)
    assert (found.weight[:2] >= 0.9 * before).all()
    assert not found.weight[2].any()
    assert found.rate_per_s[2] == 0.0


def waiting(shot: Snapshot, age_s: list[float]) -> Snapshot:
    return replace(shot, waiting_age_ns=(np.array(age_s) * 1e9).astype(np.int64))


def test_nothing_answered_is_no_queue() -> None:
    shot = waiting(seen(0), [3.0, 2.0, 1.0])
    found = follow(replace(shot, now_ns=NOW_NS + 10**9), follow(shot, None, STEP_S), STEP_S)
    assert not found.busy().any()
    assert not found.mean_s().any()


def test_one_that_hangs_is_known_by_those_that_wait() -> None:
    """The second holds the 8 flows that it has and answers none; the mean of 50 knows at once."""
    found = followed(400)
    before = found.mean_s()
    stuck, stuck_ns = found.answers_total[1], found.duration_total_ns[1]
    for step in range(401, 405):
        shot = seen(step)
        totals = {name: total.copy() for name, total in shot.totals.items()}
        totals[ANSWERS_TOTAL][1], totals[DURATION_TOTAL][1] = stuck, stuck_ns
        age_s = 8 * STEP_S * (step - 400)
        found = follow(waiting(replace(shot, totals=totals), [0.0, age_s, 0.0]), found, STEP_S)
    assert found.mean_s()[1, 0] > 2.0 * before[1, 0]
    assert found.mean_s()[[0, 2], 0] == pytest.approx(before[[0, 2], 0], rel=0.1)


def test_waiting_and_then_answered_counts_once() -> None:
    """What a flow has waited is the same, told at once or on the way."""
    shots = [seen(step) for step in range(400, 403)]
    on_the_way = [shots[0], waiting(shots[1], [0.2, 0.7, 0.0]), shots[2]]
    at_once, told = (
        follow(these[2], follow(these[1], follow(these[0], None, STEP_S), STEP_S), STEP_S)
        for these in (shots, on_the_way)
    )
    # A short memory fades meanwhile.
    assert told.mean_s()[:, 2] == pytest.approx(at_once.mean_s()[:, 2], rel=2e-3)
    assert told.mean_s()[:, 0] == pytest.approx(at_once.mean_s()[:, 0], rel=5e-2)


def test_who_gives_up_takes_no_time_back() -> None:
    found = follow(waiting(seen(400), [0.0, 30.0, 0.0]), None, STEP_S)
    after = follow(seen(401), found, STEP_S)
    assert (after.total_s >= 0.0).all()
    assert (after.mean_s() > 0.0).all()
