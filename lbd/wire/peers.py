"""What balancers tell each other: one kind of datagram, of one service's backends.

Lives here: its binary form, its proof of origin. Never here: sockets, clocks, what follows from
what is told (`lbd.peers`).

Little-endian, as the regions are. Columns, not rows: what seldom changes stands together, and is
taken as it stands while it is the same.

    magic 3 | version 1 | flags 1 | rows 1 | part 1 | parts 1 | sender 8 | sequence 8 | service 8
    backends 8 each | q 4 each | waiting 4 each | waiting_age_ns 8 each | each of TOTALS 8 each
    16 bytes of HMAC-SHA256 (RFC 2104, truncated) over all before, where flags say so

Names are told as 8 bytes of BLAKE2b. A service of more than ROWS backends takes several parts, each
of which replaces the part of the same number that was told before. `sender` is when the balancer
began, in nanoseconds of UTC, so that a later life is told from an earlier one; `sequence` grows
within it.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from lbd.wire.malformed import Malformed
from shm.snapshot import Ints

MAGIC: Final = b"LBP"
VERSION: Final = 1
ROWS: Final = 20
"""Backends of a datagram at most: below 1,400 bytes, which pass any path that is not meant for
less."""
MAX_PARTS: Final = 64
MAC_BYTES: Final = 16
HEAD: Final = struct.Struct("<3sBBBBBQQQ")

SIGNED: Final = 1
EXCHANGES: Final = 2

TOTALS: Final = ("arrivals", "answers", "duration_ns", "unanswered", "failures")
"""Since the sender began."""
WORDS: Final = 1 + len(TOTALS)
"""Of 64 bits: the sum of the ages of what waits, and TOTALS."""
KEY_BYTES: Final = 8
Q_BYTES: Final = 4
ROW_BYTES: Final = KEY_BYTES + 2 * Q_BYTES + 8 * WORDS
MAX_BYTES: Final = HEAD.size + ROWS * ROW_BYTES + MAC_BYTES
_Q: Final = [struct.Struct(f"<{rows}I") for rows in range(ROWS + 1)]


class Unproven(Malformed):
    """Signed by another key, or by none, or signed where no key is known."""


class Part(NamedTuple):
    """Up to ROWS backends. keys: of their addresses, `key` each. q: their flows, each below 2**32.
    figures: the rest, as `pack_figures` makes it."""

    keys: bytes
    q: Sequence[int]
    figures: bytes


class Told(NamedTuple):
    """One datagram; exchanges: whether it counts exchanges instead of flows."""

    sender: int
    sequence: int
    service: int
    part: int
    parts: int
    exchanges: bool
    told: Part


def key(name: str) -> int:
    """A service's name or a backend's address, as it is told."""
    return int.from_bytes(blake2b(name.encode(), digest_size=KEY_BYTES).digest(), "little")


def pack_keys(keys: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(keys)}Q", *keys)


def unpack_keys(keys: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(keys) // KEY_BYTES}Q", keys)


def pack_figures(waiting: Ints, words: Ints) -> bytes:
    """waiting (R,): of q those without a first byte. words (WORDS, R)."""
    return waiting.astype("<u4").tobytes() + words.astype("<u8").tobytes()


def unpack_figures(figures: bytes) -> tuple[Ints, Ints]:
    """waiting (R,), words (WORDS, R); what has 64 bits comes out negative."""
    rows = len(figures) // (Q_BYTES + 8 * WORDS)
    waiting = np.frombuffer(figures, "<u4", rows).astype(np.int64)
    words = np.frombuffer(figures, "<i8", rows * WORDS, Q_BYTES * rows)
    return waiting, words.reshape(WORDS, rows)


def encode(
    sender: int,
    sequence: int,
    service: int,
    exchanges: bool,
    told: Sequence[Part],
    secret: bytes | None,
) -> Iterator[bytes]:
    """A datagram a part, of which there are at least one and at most MAX_PARTS."""
    flags = (SIGNED if secret is not None else 0) | (EXCHANGES if exchanges else 0)
    for part, (keys, q, figures) in enumerate(told):
        head = HEAD.pack(MAGIC, VERSION, flags, len(q), part, len(told), sender, sequence, service)
        data = b"".join((head, keys, _Q[len(q)].pack(*q), figures))
        yield data if secret is None else data + _mac(data, secret)


def decode(data: bytes, secret: bytes | None) -> Told:
    """Raises Malformed, and Unproven where it is not from who knows `secret`; None is for a network
    where everybody is believed."""
    if len(data) < HEAD.size:
        raise Malformed("a head that is cut short")
    magic, version, flags, rows, part, parts, sender, sequence, service = HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise Malformed("none of ours, or of another version")
    if flags & ~(SIGNED | EXCHANGES) or rows > ROWS or not part < parts <= MAX_PARTS:
        raise Malformed("flags, rows or a part beyond what there is")
    signed = bool(flags & SIGNED)
    end = HEAD.size + rows * ROW_BYTES
    if len(data) != end + (MAC_BYTES if signed else 0):
        raise Malformed("a length that is not told")
    if signed != (secret is not None):
        raise Unproven("signed, and no key is known" if signed else "not signed")
    if secret is not None and not hmac.compare_digest(data[end:], _mac(data[:end], secret)):
        raise Unproven("signed by another key")
    q_at = HEAD.size + KEY_BYTES * rows
    figures_at = q_at + Q_BYTES * rows
    told = Part(data[HEAD.size : q_at], _Q[rows].unpack_from(data, q_at), data[figures_at:end])
    return Told(sender, sequence, service, part, parts, bool(flags & EXCHANGES), told)


def _mac(data: bytes, secret: bytes) -> bytes:
    return hmac.digest(secret, data, "sha256")[:MAC_BYTES]
