"""Multi-buffering on plain memory: newest wins, restarts go on, a dying writer hurts nobody."""

from __future__ import annotations

import numpy as np
import pytest
from lapped import lapped

from shm.frames import ATTEMPTS, FrameRing

WORDS = 5


def ring(depth: int = 4, offset: int = 3) -> tuple[np.ndarray, FrameRing]:
    u64 = np.full(offset + WORDS * depth + 2, 77, dtype=np.uint64)
    u64[offset:-2] = 0
    return u64, FrameRing(u64, offset, WORDS, depth)


def body(number: int) -> np.ndarray:
    return np.arange(number * 10, number * 10 + WORDS - 1, dtype=np.uint64)


class Died(Exception):
    """The writer's end."""


class Deadly:
    """A body that the writer does not survive, after its frame was opened."""

    def __len__(self) -> int:
        return WORDS - 1

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise Died


def test_nothing_written_is_nothing_read() -> None:
    _, frames = ring()
    assert frames.newest() == 0
    assert frames.read() is None


@pytest.mark.parametrize("depth", [2, 3, 4, 16])
def test_the_newest_frame_wins_however_often_the_ring_goes_round(depth: int) -> None:
    u64, frames = ring(depth)
    for number in range(1, 5 * depth):
        assert frames.write(body(number)) == number
        read = frames.read()
        assert read is not None
        assert read.tolist() == [number, *body(number)]
    assert u64[:3].tolist() == [77] * 3
    assert u64[-2:].tolist() == [77] * 2


def test_what_was_read_is_a_copy() -> None:
    _, frames = ring(2)
    frames.write(body(1))
    read = frames.read()
    frames.write(body(2))
    frames.write(body(3))
    assert read is not None
    assert read.tolist() == [1, *body(1)]


def test_a_writer_that_starts_again_goes_on_after_the_highest_sequence() -> None:
    u64, frames = ring()
    for number in range(1, 8):
        frames.write(body(number))
    again = FrameRing(u64, 3, WORDS, 4)
    assert again.write(body(8)) == 8
    read = frames.read()
    assert read is not None
    assert read.tolist() == [8, *body(8)]


@pytest.mark.parametrize("written", [1, 2, 3, 4, 9])
def test_a_writer_that_dies_in_a_frame_leaves_the_one_before(written: int) -> None:
    u64, frames = ring()
    for number in range(1, written + 1):
        frames.write(body(number))
    with pytest.raises(Died):
        frames.write(Deadly())  # type: ignore[arg-type]
    opened = 3 + (written + 1) % 4 * WORDS
    assert u64[opened] == 0
    u64[opened + 1 : opened + 3] = 999
    read = frames.read()
    assert read is not None
    assert read.tolist() == [written, *body(written)]
    assert FrameRing(u64, 3, WORDS, 4).write(body(50)) == written + 1
    read = frames.read()
    assert read is not None
    assert read.tolist() == [written + 1, *body(50)]


def test_a_frame_that_changes_under_the_copy_is_read_again() -> None:
    u64, writer = ring(2)
    writer.write(body(1))
    changes = iter([2, 3, 4, 5])

    def write_two() -> None:
        for number in [next(changes, 0), next(changes, 0)]:
            if number:
                writer.write(body(number))

    read = FrameRing(lapped(u64, write_two), 3, WORDS, 2).read()
    assert read is not None
    assert read.tolist() == [5, *body(5)]


def test_a_reader_gives_up_on_a_writer_that_is_always_faster() -> None:
    u64, writer = ring(2)
    writer.write(body(1))
    copies = 0

    def write_two() -> None:
        nonlocal copies
        copies += 1
        writer.write(body(2))
        writer.write(body(3))

    assert FrameRing(lapped(u64, write_two), 3, WORDS, 2).read() is None
    assert copies == ATTEMPTS
