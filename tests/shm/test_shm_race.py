"""A reader that races a writer never sees a torn frame or sample; a careless reader does."""

from __future__ import annotations

import pytest
from race import KINDS, race


def never_torn(kind: str, reads: int, control: int) -> None:
    found = race(kind, reads, control)
    assert found["reads"] >= reads
    assert found["torn"] == 0
    assert found["control_torn"] > 0, "this machine shows no torn reads: the test proves nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_no_read_is_torn_and_the_control_shows_that_it_could_be(kind: str) -> None:
    never_torn(kind, 30_000, 0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_no_read_is_torn_in_millions(kind: str) -> None:
    never_torn(kind, 3_333_334, 100_000)
