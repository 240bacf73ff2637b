"""A table by source that all workers of a service share: bounded, without locks.

Lives here: where an entry is, who writes it, which is given up for another. Never here: what is
remembered of a source (`lbd.edge.sources`, `lbd.edge.stick`).

One block a worker, and one writer a block: a worker that wants to know all that is known of a
source looks at the same bucket in every block. A bucket has `WAYS` entries; a source that finds
none free takes the one longest unused. The memory is anonymous, made by the supervisor, inherited
by the workers, and gone with the last of them; pages come into being as they are touched.

    header: 2 words of secret | worker 0's buckets | worker 1's buckets | ...
    entry: key | used_ns | what the user of the table keeps
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Final

WAYS: Final = 8
ENTRY_WORDS: Final = 8
KEY: Final = 0
USED_NS: Final = 1
VALUE: Final = 2
"""The first of the words that are the user's."""

_WORD: Final = 8
_HEADER_WORDS: Final = 8
_SECRET_BYTES: Final = 16
_FREE: Final = 0
NONE: Final = -1


def create(entries: int, workers: int, name: str) -> int:
    """A descriptor of the memory for at least `entries` a worker. Raises OSError."""
    size = (_HEADER_WORDS + workers * _buckets(entries) * WAYS * ENTRY_WORDS) * _WORD
    fd = os.memfd_create(f"lbd.{name}", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    # Keys are hashed with it: nobody outside can aim at one bucket.
    os.pwrite(fd, secrets.token_bytes(_SECRET_BYTES), 0)
    return fd


def _buckets(entries: int) -> int:
    return 1 << (max(entries // WAYS, 1) - 1).bit_length()


class SharedTable:
    """Worker `own`'s view. What a predecessor in its block had written is wiped."""

    def __init__(self, fd: int, entries: int, workers: int, own: int) -> None:
        self._mask = _buckets(entries) - 1
        self._block_words = (self._mask + 1) * WAYS * ENTRY_WORDS
        memory = mmap.mmap(fd, (_HEADER_WORDS + workers * self._block_words) * _WORD)
        self._secret = memory[:_SECRET_BYTES]
        self.words = memoryview(memory).cast("Q")
        self._own = _HEADER_WORDS + own * self._block_words
        self._others = [_HEADER_WORDS + w * self._block_words for w in range(workers) if w != own]
        blank = self.words[self._own : self._own + self._block_words]
        for at in range(KEY, self._block_words, ENTRY_WORDS):
            if blank[at] != _FREE:
                blank[at : at + ENTRY_WORDS] = _BLANK

    def key(self, source: bytes) -> int:
        """64 bits, the same in every worker, never the mark of a free entry."""
        return int.from_bytes(blake2b(source, digest_size=8, key=self._secret).digest()) or 1

    def mine(self, key: int) -> int:
        """Where this worker's entry is; NONE if there is none."""
        words = self.words
        start = self._own + self._bucket(key)
        for at in range(start, start + WAYS * ENTRY_WORDS, ENTRY_WORDS):
            if words[at] == key:
                return at
        return NONE

    def all(self, key: int) -> Iterator[tuple[int, ...]]:
        """Copies of every worker's entry of the source, this one's first."""
        words, offset = self.words, self._bucket(key)
        for block in (self._own, *self._others):
            start = block + offset
            for at in range(start, start + WAYS * ENTRY_WORDS, ENTRY_WORDS):
                if words[at] == key:
                    entry = tuple(words[at : at + ENTRY_WORDS])
                    # Its writer may have given it to another source meanwhile.
                    if entry[KEY] == words[at] == key:
                        yield entry
                    break

    def claim(
        self, key: int, now_ns: int, held: Callable[[int], bool] = lambda at: False
    ) -> tuple[int, int]:
        """(where this worker's entry is now, when the source was last seen that lost it, or 0).

        A new one is blank but for key and time. NONE where all of its bucket are `held`.
        """
        words = self.words
        at = self.mine(key)
        lost_ns = 0
        if at == NONE:
            start = self._own + self._bucket(key)
            ways = range(start, start + WAYS * ENTRY_WORDS, ENTRY_WORDS)
            room = [at for at in ways if words[at] == _FREE or not held(at)]
            if not room:
                return NONE, 0
            # A free one was never used.
            at = min(room, key=lambda at: words[at + USED_NS])
            lost_ns = words[at + USED_NS]
            words[at : at + ENTRY_WORDS] = _BLANK
            words[at] = key
        words[at + USED_NS] = now_ns
        return at, lost_ns

    def _bucket(self, key: int) -> int:
        return (key & self._mask) * WAYS * ENTRY_WORDS


_BLANK: Final = memoryview(bytes(ENTRY_WORDS * _WORD)).cast("Q")
