"""What balancers tell each other: told and read again, cut, bent, and by whom."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.wire.malformed import Malformed
from lbd.wire.peers import (
    HEAD,
    MAX_BYTES,
    MAX_PARTS,
    ROW_BYTES,
    ROWS,
    WORDS,
    Part,
    Told,
    Unproven,
    decode,
    encode,
    key,
    pack_figures,
    pack_keys,
    unpack_figures,
    unpack_keys,
)

SECRET = b"sixteen bytes or more"
SECRETS = st.sampled_from([None, SECRET])
WORD = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**32 - 1)
POSITIVE = st.integers(0, 2**63 - 1)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    rows = draw(st.integers(0, ROWS))

    def column(of: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(of, min_size=rows, max_size=rows))

    words = np.array([column(POSITIVE) for _ in range(WORDS)], dtype=np.int64)
    figures = pack_figures(np.array(column(SMALL), dtype=np.int64), words)
    return Part(pack_keys(column(WORD)), tuple(column(SMALL)), figures)


def one(rows: int = 2, secret: bytes | None = None) -> bytes:
    nothing = np.zeros((WORDS, rows), dtype=np.int64)
    part = Part(pack_keys([0] * rows), [0] * rows, pack_figures(nothing[0], nothing))
    (data,) = encode(7, 9, key("web"), False, [part], secret)
    return data


@given(st.lists(parts(), max_size=3), WORD, WORD, st.booleans(), SECRETS)
def test_what_is_told_is_read(
    told: list[Part], sender: int, sequence: int, exchanges: bool, secret: bytes | None
) -> None:
    datagrams = list(encode(sender, sequence, key("web"), exchanges, told, secret))
    assert all(len(data) <= MAX_BYTES < 1400 for data in datagrams)
    assert [decode(data, secret) for data in datagrams] == [
        Told(sender, sequence, key("web"), at, len(told), exchanges, part)
        for at, part in enumerate(told)
    ]


@given(st.data(), st.integers(0, ROWS))
def test_figures_and_keys_come_out_as_they_went_in(data: st.DataObject, rows: int) -> None:
    def column(of: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(of, min_size=rows, max_size=rows))

    keys, waiting = column(WORD), column(SMALL)
    words = [column(POSITIVE) for _ in range(WORDS)]
    assert list(unpack_keys(pack_keys(keys))) == keys
    found = unpack_figures(
        pack_figures(np.array(waiting, dtype=np.int64), np.array(words, dtype=np.int64))
    )
    assert found[0].tolist() == waiting
    assert found[1].tolist() == words


@given(st.binary(max_size=200), SECRETS)
def test_garbage_is_malformed_and_nothing_else(data: bytes, secret: bytes | None) -> None:
    with pytest.raises(Malformed):
        decode(data, secret)


@given(st.binary(max_size=1500), SECRETS)
def test_behind_a_right_beginning_there_may_be_anything(data: bytes, secret: bytes | None) -> None:
    try:
        told = decode(one()[:4] + data, secret)
    except Malformed:
        return
    assert isinstance(told, Told)
    assert len(told.told.q) <= ROWS
    assert unpack_figures(told.told.figures)[1].shape == (WORDS, len(told.told.q))


@given(st.data(), SECRETS)
def test_cut_or_longer_it_is_refused(data: st.DataObject, secret: bytes | None) -> None:
    whole = one(3, secret)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\0"):
        with pytest.raises(Malformed):
            decode(wrong, secret)


@given(st.integers(0, 8 * len(one(2, SECRET)) - 1))
def test_of_what_is_signed_no_bit_may_change(bit: int) -> None:
    data = bytearray(one(2, SECRET))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        decode(bytes(data), SECRET)


@pytest.mark.parametrize(
    ("data", "secret", "says"),
    [
        (one(secret=SECRET), None, "no key is known"),
        (one(), SECRET, "not signed"),
        (one(secret=b"another key of this length"), SECRET, "another key"),
    ],
)
def test_whose_key_is_another_is_told_as_such(data: bytes, secret: bytes | None, says: str) -> None:
    with pytest.raises(Unproven, match=says):
        decode(data, secret)


def test_a_part_beyond_the_parts_is_refused() -> None:
    data = bytearray(one(0))
    for part, parts in ((1, 1), (0, 0), (MAX_PARTS, MAX_PARTS + 1)):
        data[6:8] = part, parts
        with pytest.raises(Malformed, match="beyond what there is"):
            decode(bytes(data), None)


def test_names_are_told_alike_everywhere() -> None:
    """Balancers of different builds must agree: these are of BLAKE2b's reference code."""
    assert key("10.0.0.1:80") == int.from_bytes(bytes.fromhex(KEY), "little")
    assert HEAD.size == 32
    assert ROW_BYTES == 64


KEY = "10baba142dbc806b"
"""`printf 10.0.0.1:80 | b2sum -l 64`."""
