"""The layout table: every word belongs to one block. Pure arithmetic, no memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm import layout as lo
from shm.layout import Layout

GEOMETRIES = st.builds(
    Layout,
    workers=st.integers(1, lo.MAX_WORKERS),
    slots=st.integers(1, lo.MAX_SLOTS),
    reservoir=st.integers(1, 65536),
    depth=st.integers(2, 16),
    peers=st.integers(0, 1),
)


def blocks(of: Layout) -> list[tuple[int, int]]:
    """(first word, words) of every block."""
    found = [
        (0, lo.HEADER_WORDS),
        (of.slot_table, of.slots * lo.SLOT_WORDS),
        (of.states, len(lo.STATES) * of.slots),
        (of.retired, lo.SCALAR_WORDS + of.cache_words),
        (of.retired_histograms, of.histogram_words),
        (of.agent, lo.AGENT_SCALAR_WORDS),
        *((of.weight_frame(i), of.weight_frame_words) for i in range(of.depth)),
    ]
    if of.peers:
        found += [
            (of.peers_start, lo.PEER_SCALAR_WORDS),
            (of.peer_rows, of.peer_rows_words),
            *((of.peer_frame(i), of.peer_frame_words) for i in range(of.depth)),
        ]
    samples = (len(lo.KINDS) * of.slots + 1) * of.reservoir * lo.SAMPLE_WORDS
    for worker in range(of.workers):
        found += [
            (of.worker(worker), lo.SCALAR_WORDS),
            (of.cache(worker), of.cache_words),
            *((of.frame(worker, i), of.frame_words) for i in range(of.depth)),
            (of.reservoirs(worker), samples),
            (of.histograms(worker), of.histogram_words),
        ]
    return found


@given(GEOMETRIES)
def test_blocks_do_not_overlap_and_leave_no_gap(of: Layout) -> None:
    end = 0
    for first, words in sorted(blocks(of)):
        assert first == end
        end = first + words
    assert 0 <= of.total_bytes - end * lo.WORD < lo.PAGE
    assert of.total_bytes % lo.PAGE == 0


@given(GEOMETRIES)
def test_room_for_peers_moves_no_word_of_who_came_before(of: Layout) -> None:
    other = replace(of, peers=1 - of.peers)
    assert (of.weight_frame(of.depth), of.peers_start) == (other.peers_start,) * 2


def test_peers_are_told_what_there_is() -> None:
    for sources in lo.PEER_SOURCES:
        assert (*sources, "failures_total") == (*lo.PEER_GAUGES, *lo.PEER_TOTALS)
        assert set(sources.values()) <= set(lo.ROWS)
        assert sources["q"] in lo.FLOATS


def test_what_is_named_fits_its_block() -> None:
    assert len(lo.SCALARS) <= lo.SCALAR_WORDS
    assert len(lo.AGENT_SCALARS) + len(lo.AGENT_REALS) <= lo.AGENT_SCALAR_WORDS
    assert len(lo.PEER_SCALARS) <= lo.PEER_SCALAR_WORDS
    assert lo.H_AGENT_ORDER < lo.H_NAME
    assert lo.H_NAME + lo.NAME_BYTES // lo.WORD <= lo.H_PEERS < lo.H_BITMAP
    assert lo.H_BITMAP + lo.MAX_SLOTS // 64 <= lo.H_USABLE
    assert lo.H_USABLE + lo.MAX_SLOTS // 64 <= lo.HEADER_WORDS
    assert lo.S_NAME + lo.SLOT_NAME_BYTES // lo.WORD <= lo.S_ADDRESS
    assert lo.S_ADDRESS + lo.SLOT_ADDRESS_BYTES // lo.WORD <= lo.SLOT_WORDS
    assert set(lo.BACKEND_FAILURES) <= set(lo.TOTALS)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("workers", (0, lo.MAX_WORKERS + 1)),
        ("slots", (0, lo.MAX_SLOTS + 1)),
        ("reservoir", (0, 65537)),
        ("depth", (1, 17)),
        ("peers", (-1, 2)),
    ],
)
def test_a_geometry_outside_the_limits_is_refused_by_name(
    name: str, values: tuple[int, int]
) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Layout(**{"workers": 1, "slots": 1, "reservoir": 1, "depth": 2, name: value})
