"""What a policy is trained on: that all of it is drawn, within its ranges, the same each time.

Lives here: draws of `testbed.train.distribution`. Never here: training.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pydantic import ValidationError

from testbed.load.sizes import Law
from testbed.sim.scenario import Scenario, Servers, Size
from testbed.train.distribution import Distribution, draw, scenario, shipped

DRAWN = [scenario(number) for number in range(300)]


def servers() -> Iterator[Servers]:
    return (group for drawn in DRAWN for group in drawn.servers)


def sizes() -> Iterator[Size]:
    for drawn in DRAWN:
        for application in drawn.applications:
            yield from (size for _, size in application.stages)


def kinds(drawn: Scenario) -> set[str]:
    return {event.kind for event in drawn.events}


def test_all_of_it_is_drawn() -> None:
    of = shipped()
    assert {drawn.balancers for drawn in DRAWN} == set(of.balancers)
    assert {group.backlog for group in servers()} == set(of.servers.backlog)
    assert {group.in_service for group in servers()} == set(of.servers.in_service)
    assert {group.fifo for group in servers()} == {True, False}
    assert any(group.weight is not None for group in servers())
    assert {len(drawn.applications) for drawn in DRAWN} == set(of.applications.count)
    assert {len(a.stages) for drawn in DRAWN for a in drawn.applications} == {1, 2, 3}
    assert {size.law for size in sizes()} == set(Law)
    assert any(size.heavy_share for size in sizes())
    assert any(drawn.arrivals.profile for drawn in DRAWN)
    assert any(drawn.arrivals.burst_ratio > 1.0 for drawn in DRAWN)
    assert set.union(*map(kinds, DRAWN)) == {"speed", "fail", "recover", "add", "remove"}
    assert any(not drawn.events for drawn in DRAWN)
    assert any(len(drawn.events) > 2 * len(drawn.backends) for drawn in DRAWN)


def test_within_the_ranges() -> None:
    of = shipped()
    assert {len(drawn.backends) for drawn in DRAWN} >= {4, 8, 12, 16, 20}
    assert all(4 <= len(drawn.backends) <= 24 for drawn in DRAWN)
    assert all(of.duration_s[0] <= drawn.duration_s <= of.duration_s[1] for drawn in DRAWN)
    assert all(event.at_s <= drawn.duration_s for drawn in DRAWN for event in drawn.events)
    assert all(0.4 < (drawn.arrivals.load or 0.0) < 1.0 for drawn in DRAWN)


def test_one_cpu_a_server_keeps_the_capacity() -> None:
    of = shipped()
    sure = of.servers.model_copy(update={"single": 1.0, "hidden": 0.0, "cpus": {8: 1.0}})
    found = draw(of.model_copy(update={"servers": sure}), 3)
    assert {(group.cpus, group.speed) for group in found.servers} == {(1, 8.0)}


def test_a_number_is_a_scenario() -> None:
    assert scenario(7) == DRAWN[7]
    assert len({str(drawn.model_copy(update={"name": ""})) for drawn in DRAWN}) == len(DRAWN)
    assert np.isfinite([drawn.rate_per_s() for drawn in DRAWN]).all()


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("servers", {"count": [12, 4]}, "low, high"),
        ("servers", {"fifo": 1.5}, "less than or equal to 1"),
        ("applications", {"laws": {"gamma": 1}}, "gamma"),
        ("events", {"kinds": {"flood": 1}}, "flood"),
        ("arrivals", {"lod": {}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_drawn_is_refused(part: str, change: dict[str, object], said: str) -> None:
    document = shipped().model_dump(mode="json")
    document[part] |= change
    with pytest.raises(ValidationError, match=said):
        Distribution(**document)
