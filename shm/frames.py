"""Multi-buffering: how a block of words travels whole from its one writer to any reader.

Lives here: the protocol. Never here: what the words mean.

m frames, each opening with a sequence. The writer takes the frame after the newest, sets its
sequence to 0, writes, then sets the next sequence. A reader takes the frame with the highest
sequence, copies it, and looks again whether the sequence is still the same; it was torn if not.
A writer that starts again goes on from the highest sequence it finds (the papers' restarted at 0
and was not heard until it had caught up).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ATTEMPTS = 8


class FrameRing:
    """`depth` frames of `frame_words` words from word `start` of `u64`; word 0 is the sequence."""

    def __init__(self, u64: NDArray[np.uint64], start: int, frame_words: int, depth: int) -> None:
        block = u64[start : start + frame_words * depth]
        self._frames = block.reshape(depth, frame_words)
        self._sequences = self._frames[:, 0]
        self._depth = depth

    def newest(self) -> int:
        """The highest sequence, 0 where nothing was ever written."""
        return int(self._sequences.max())

    def write(self, body: NDArray[np.uint64]) -> int:
        """Publish the words after the sequence; returns the sequence given."""
        sequence = self.newest() + 1
        frame = self._frames[sequence % self._depth]
        frame[0] = 0
        frame[1 : 1 + len(body)] = body
        frame[0] = sequence
        return sequence

    def read(self) -> NDArray[np.uint64] | None:
        """A copy of the newest whole frame, sequence included; None where there is none.

        With a writer that is always faster than a copy it gives up after a few attempts, as if
        there were none: a reader never waits.
        """
        for _ in range(ATTEMPTS):
            index = int(self._sequences.argmax())
            sequence = self._sequences[index]
            if sequence == 0:
                if self.newest() == 0:
                    return None
                # The writer came round to this frame just now: there are newer ones.
                continue
            copy: NDArray[np.uint64] = self._frames[index].copy()
            if self._sequences[index] == sequence and copy[0] == sequence:
                return copy
        return None
