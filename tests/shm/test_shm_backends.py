"""Backends of a region: slots, identities, the bitmap's word edges."""

from __future__ import annotations

import random

import pytest
from conftest import Create

from shm import layout as lo
from shm.errors import RegionError
from shm.region import Region


def add(region: Region, number: int) -> int:
    return region.add_backend(f"b{number}", f"10.0.0.1:{number + 1}", 1.0 + number).slot


@pytest.mark.parametrize("slots", [1, 63, 64, 65, 127, 128, 129, 1023, 1024])
def test_every_slot_can_be_taken_and_no_more(create: Create, slots: int) -> None:
    region = create(workers=1, slots=slots, reservoir=1, depth=2)
    assert [add(region, number) for number in range(slots)] == list(range(slots))
    assert region.active_slots().tolist() == list(range(slots))
    with pytest.raises(RegionError, match=f"all {slots} slots"):
        add(region, slots)
    for slot in {0, 62, 63, 64, 65, 127, 128, slots - 1}:
        if slot < slots:
            region.remove_backend(slot)
            assert slot not in region.active_slots()
            assert len(region.active_slots()) == slots - 1
            assert add(region, slot) == slot


def test_nobody_moves_when_others_come_and_go(create: Create) -> None:
    region = create(workers=1, slots=200, reservoir=1, depth=2)
    rng = random.Random(7)
    model: dict[int, tuple[int, str, str, float]] = {}
    identities: set[int] = set()
    for number in range(1500):
        if model and rng.random() < 0.48:
            slot = rng.choice(sorted(model))
            region.remove_backend(slot)
            del model[slot]
        elif len(model) < 200:
            entry = region.add_backend(f"b{number}", f"unix:/run/{number}", number / 8)
            assert entry.slot not in model
            assert entry.slot == min(set(range(200)) - set(model))
            assert entry.identity not in identities, "an identity was given twice"
            identities.add(entry.identity)
            model[entry.slot] = (entry.identity, entry.name, entry.address, entry.weight)
    found = {e.slot: (e.identity, e.name, e.address, e.weight) for e in region.entries()}
    assert found == model


def test_a_slot_used_again_is_a_new_identity(create: Create) -> None:
    region = create()
    first = region.add_backend("a", "127.0.0.1:1", 1.0)
    region.remove_backend(first.slot)
    second = region.add_backend("a", "127.0.0.1:1", 1.0)
    assert second.slot == first.slot
    assert second.identity > first.identity
    assert region.identities()[second.slot] == second.identity


@pytest.mark.parametrize("slot", [-1, 3, 8, 64, 4096, 2**40])
def test_a_slot_that_is_not_in_use_cannot_be_removed(create: Create, slot: int) -> None:
    region = create(slots=8)
    for number in range(3):
        add(region, number)
    before = region.words[: lo.HEADER_WORDS].tobytes()
    with pytest.raises(RegionError, match="not in use"):
        region.remove_backend(slot)
    assert region.words[: lo.HEADER_WORDS].tobytes() == before


def test_texts_fit_to_the_last_byte_and_not_beyond(create: Create) -> None:
    region = create()
    name, address = "é" * (lo.SLOT_NAME_BYTES // 2), "a" * lo.SLOT_ADDRESS_BYTES
    entry = region.add_backend(name, address, 0.5)
    assert region.entry(entry.slot) == entry
    with pytest.raises(RegionError, match="does not fit"):
        region.add_backend(name + "x", address, 0.5)
    with pytest.raises(RegionError, match="does not fit"):
        region.add_backend(name, address + "x", 0.5)
    assert region.active_slots().tolist() == [entry.slot]


def test_a_text_that_does_not_fit_changes_nothing(create: Create) -> None:
    region = create()
    region.remove_backend(add(region, 0))
    before = region.u64.copy()
    for name, address in (
        ("é" * (lo.SLOT_NAME_BYTES // 2 + 1), "h:1"),
        ("a", "x" * (lo.SLOT_ADDRESS_BYTES + 1)),
    ):
        with pytest.raises(RegionError, match="does not fit"):
            region.add_backend(name, address, 9.0)
    assert (before == region.u64).all()


def test_a_row_that_is_changing_hands_is_nobodys(create: Create) -> None:
    """As a reader meets it that has seen the former user's bit, and then the row half written."""
    region = create()
    slot = add(region, 0)
    region.words[region.layout.slot_table + slot * lo.SLOT_WORDS + lo.S_IDENTITY] = 0
    assert region.entry(slot).identity == 0
    assert region.entries() == []


def test_a_row_is_never_read_as_a_mixture_of_two_users(create: Create) -> None:
    region = create()
    seen = Region.attach(region.service)
    slot = add(region, 0)
    first = seen.entry(slot)
    text = seen._get_text

    def meddle(word: int, size_bytes: int) -> str:
        """The slot goes to another user between the first and the second word that is read."""
        found = text(word, size_bytes)
        seen._get_text = text
        region.remove_backend(slot)
        assert add(region, 7) == slot
        return found

    seen._get_text = meddle
    assert seen.entry(slot).identity == 0
    assert seen.entry(slot) == region.entry(slot) != first
