"""The states of backends: what follows from the reasons, and who is told of a change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.errors import RegionError
from shm.region import Region
from shm.states import (
    LABELS,
    UNHEALTHY,
    WITHDRAWN,
    Flag,
    StateReader,
    StateWriter,
    label,
    usable,
)

Create = Callable[..., Region]
NOW = 10**9
FLAGS = st.lists(st.integers(0, 511), min_size=1, max_size=20)


def filled(create: Create, count: int = 4) -> Region:
    region = create()
    for number in range(count):
        region.add_backend(f"b{number}", f"127.0.0.1:{1000 + number}", 1.0 + number)
    return region


@given(FLAGS, st.floats(0, 1))
def test_what_is_withdrawn_is_never_used_and_the_healthy_always_are(
    flags: list[int], panic_below: float
) -> None:
    found = usable(np.array(flags, dtype=np.uint64), panic_below)
    for flag, used in zip(flags, found, strict=True):
        if flag & WITHDRAWN:
            assert not used
        elif not flag & UNHEALTHY:
            assert used
    ill = [bool(f & UNHEALTHY) for f in flags if not f & WITHDRAWN]
    panic = ill.count(False) < panic_below * len(ill)
    used_ill = [u for f, u in zip(flags, found, strict=True) if f & UNHEALTHY and not f & WITHDRAWN]
    assert all(used is panic or used == panic for used in used_ill)


def test_panic_begins_below_the_threshold() -> None:
    flags = np.array([0, 0, Flag.CHECK_DOWN, Flag.EJECTED, Flag.MAINT], dtype=np.uint64)
    assert usable(flags, 0.5).tolist() == [True, True, False, False, False]
    assert usable(flags, 0.51).tolist() == [True, True, True, True, False]
    nobody = np.array([Flag.CHECK_DOWN], dtype=np.uint64)
    assert usable(nobody, 0.0).tolist() == [False]
    assert usable(nobody, 0.01).tolist() == [True]


def test_every_flag_has_a_label_and_intent_outweighs_illness() -> None:
    assert {label(flag) for flag in Flag} | {label(0)} == set(LABELS)
    assert label(Flag.CHECK_DOWN | Flag.DRAIN) == "drain"
    assert label(Flag.EJECTED | Flag.SLOW_START) == "ejected"


def test_a_new_backend_is_up_and_every_change_is_told_once(create: Create) -> None:
    region = filled(create)
    writer, reader = StateWriter(region), StateReader(region)
    first = reader.poll()
    assert first is not None
    assert first.usable == [0, 1, 2, 3]
    assert first.share[:4].tolist() == [1.0] * 4
    assert first.weight[:4].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert reader.poll() is None

    assert writer.set(2, Flag.CHECK_DOWN, NOW)
    assert not writer.set(2, Flag.CHECK_DOWN, NOW + 1)
    writer.share(1, 0.25)
    writer.limit(0, 7)
    writer.end_by(2, NOW + 5)
    region.set_weight(3, 9.0)
    found = reader.poll()
    assert found is not None
    assert found.usable == [0, 1, 3]
    assert Flag(int(found.flags[2])) is Flag.CHECK_DOWN
    assert found.share[1] == 0.25
    assert found.max_flows[0] == 7
    assert found.end_by_ns[2] == NOW + 5
    assert found.weight[3] == 9.0
    assert writer.get(2, "since_ns") == NOW
    assert reader.poll() is None


def test_reasons_are_independent_of_each_other(create: Create) -> None:
    region = filled(create)
    writer = StateWriter(region)
    writer.set(1, Flag.DRAIN, NOW)
    writer.set(1, Flag.EJECTED, NOW)
    writer.clear(1, Flag.EJECTED, NOW)
    assert 1 not in region.usable_slots()
    writer.clear(1, Flag.DRAIN, NOW)
    assert 1 in region.usable_slots()


def test_a_slot_that_is_used_again_has_no_past(create: Create) -> None:
    region = filled(create)
    writer, reader = StateWriter(region), StateReader(region)
    writer.set(1, Flag.MAINT, NOW)
    writer.limit(1, 3)
    writer.share(1, 0.1)
    writer.count(1, "checks_total")
    reader.poll()
    region.remove_backend(1)
    gone = reader.poll()
    assert gone is not None
    assert gone.usable == [0, 2, 3]
    with pytest.raises(RegionError, match="not in use"):
        writer.set(1, Flag.DRAIN, NOW)
    region.add_backend("new", "127.0.0.1:2000", 1.0)
    found = reader.poll()
    assert found is not None
    assert found.usable == [0, 1, 2, 3]
    assert (found.flags[1], found.share[1], found.max_flows[1]) == (0, 1.0, 0)
    assert writer.get(1, "checks_total") == 0


def test_slots_beyond_the_first_word_are_told_too(create: Create) -> None:
    region = create(slots=130)
    for number in range(130):
        region.add_backend(f"b{number}", f"127.0.0.1:{1000 + number}", 1.0)
    StateWriter(region).set(129, Flag.MAINT, NOW)
    StateWriter(region).set(64, Flag.MAINT, NOW)
    assert set(range(130)) - set(region.usable_slots().tolist()) == {64, 129}
