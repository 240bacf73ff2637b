"""The way back: weights from the agent to the workers, and every reason to refuse them.

Lives here: the agent's whole block, its writer and its one reader. Never here: how weights are
chosen (`agent`) or used (`lbd.dispatch`).
A frame says which region (generation) and which backends (identities) it was made for, and until
when it holds. Weights that are torn, stale, foreign, NaN, infinite or not positive never leave
`WeightReader.poll`.
"""

from __future__ import annotations

import enum
import math
import os
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shm import layout as lo
from shm import segment
from shm.frames import FrameRing
from shm.region import Region

AHEAD_NS: Final = 100_000_000
"""How far ahead of the reader's clock a frame may be written. A worker takes the time first and
polls a little later: what the agent wrote in between is new, not from the future."""


class Refusal(enum.Enum):
    """Why a frame was not applied; the value is the worker's counter for it."""

    TORN = "frames_torn_total"
    STALE = "frames_stale_total"
    FOREIGN = "frames_foreign_total"
    INVALID = "frames_invalid_total"


@dataclass(frozen=True)
class Weights:
    """A frame that may be used until `expires_ns`.

    weight (slots,): positive and finite for every slot of `known`; elsewhere the mean of those, so
    that a backend the agent has not met yet starts neutral. foreign: entries made for a backend
    that has left its slot.
    """

    sequence: int
    written_ns: int
    expires_ns: int
    weight: NDArray[np.float64]
    known: NDArray[np.bool_]
    foreign: int


class AgentBlock:
    """The writer. One agent a region; raises RegionBusy while another one lives."""

    def __init__(self, region: Region) -> None:
        layout = region.layout
        region.segment.lock(segment.AGENT_BYTE)
        self.region = region
        self.scalars = region.words[layout.agent : layout.agent + len(lo.AGENT_SCALARS)]
        self._reals = region.doubles[layout.agent : layout.agent + lo.AGENT_SCALAR_WORDS]
        self._ring = _ring(region)
        self._body = np.zeros(layout.weight_frame_words - 1, dtype=np.uint64)
        self._doubles = self._body.view("<f8")
        for name in lo.AGENT_REALS:
            self.set_real(name, None)
        self.scalars[lo.AGENT_SCALAR["pid"]] = os.getpid()
        self.scalars[lo.AGENT_SCALAR["incarnation_ns"]] = time.monotonic_ns()

    def set(self, scalar: str, value: int) -> None:
        self.scalars[lo.AGENT_SCALAR[scalar]] = value

    def set_real(self, name: str, value: float | None) -> None:
        """One of `layout.AGENT_REALS`; None where the step had none."""
        self._reals[lo.AGENT_REAL[name]] = math.nan if value is None else value

    def beat(self, now_ns: int) -> None:
        self.set("heartbeat_ns", now_ns)

    def publish(
        self,
        slots: NDArray[np.int64],
        identity: NDArray[np.uint64],
        weight: NDArray[np.float64],
        now_ns: int,
        expires_ns: int,
    ) -> int:
        """Write one frame; the three arrays are (N,). Returns its sequence."""
        head = lo.WEIGHT_HEAD_WORDS - 1
        count = self.region.layout.slots
        self._body[:] = 0
        self._body[0:head] = (self.region.generation, now_ns, expires_ns)
        self._body[head : head + count][slots] = identity
        self._doubles[head + count :][slots] = weight
        return self._ring.write(self._body)


class WeightReader:
    """A worker's side: polled every few milliseconds, never on the way of a flow."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._ring = _ring(region)
        self._seen = 0

    def poll(self, now_ns: int) -> Weights | Refusal | None:
        """The newest frame if it is new, or why it is refused; None where nothing is new."""
        newest = self._ring.newest()
        if newest == self._seen:
            return None
        frame = self._ring.read()
        # Also when refused: each frame is judged once. The frame read may be newer than `newest`.
        self._seen = newest if frame is None else int(frame[lo.W_SEQUENCE])
        return _judge(self._region, frame, now_ns)


def newest_weights(region: Region) -> Weights | None:
    """The newest frame, for who looks on; None where it is not fit for use, expiry aside."""
    found = _judge(region, _ring(region).read(), now_ns=None)
    return None if isinstance(found, Refusal) else found


def _judge(
    region: Region, frame: NDArray[np.uint64] | None, now_ns: int | None
) -> Weights | Refusal:
    if frame is None:
        return Refusal.TORN
    if int(frame[lo.W_GENERATION]) != region.generation:
        return Refusal.FOREIGN
    written_ns, expires_ns = int(frame[lo.W_WRITTEN_NS]), int(frame[lo.W_EXPIRES_NS])
    if now_ns is not None and (expires_ns <= now_ns or written_ns > now_ns + AHEAD_NS):
        return Refusal.STALE
    head, count = lo.WEIGHT_HEAD_WORDS, region.layout.slots
    identity = frame[head : head + count]
    weight = frame[head + count :].view("<f8").copy()
    given = identity > 0
    used = weight[given]
    if not len(used) or not (np.isfinite(used).all() and (used > 0).all()):
        return Refusal.INVALID
    # Removed and not yet replaced has left its slot too: it is foreign, and no part of the mean.
    here = np.zeros(count, dtype=np.bool_)
    here[region.active_slots()] = True
    known = given & here & (identity == region.identities())
    if not known.any():
        return Refusal.FOREIGN
    weight[~known] = _mean(weight[known])
    foreign = int(given.sum() - known.sum())
    return Weights(int(frame[0]), written_ns, expires_ns, weight, known, foreign)


def _mean(weight: NDArray[np.float64]) -> float:
    """Between the least and the greatest, as a mean is, where their plain sum overflows as well."""
    least, most = float(weight.min()), float(weight.max())
    return min(max(float((weight / most).mean()) * most, least), most)


def _ring(region: Region) -> FrameRing:
    layout = region.layout
    return FrameRing(region.u64, layout.weight_frame(0), layout.weight_frame_words, layout.depth)
