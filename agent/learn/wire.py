"""Messages between the acting side and the learner: framing over a socket that never blocks.

Lives here: frames, their bounds, steps and parameters as bytes. Never here: torch, processes.
Upstream and downstream: `agent.learn.process` (acting side), `agent.learn.worker` (learner).

A frame is length u32, kind u8, payload; payloads are safetensors or JSON, not pickle.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from agent.steps import Step

HEADER: Final = struct.Struct("<IB")
MAX_FRAME_BYTES: Final = 1 << 24
READ_BYTES: Final = 1 << 16


class Kind(IntEnum):
    """STEP goes to the learner, REPORT comes from it.

    PARAMETERS come from it too, but for the first message to it: what it is to begin with.
    """

    STEP = 1
    PARAMETERS = 2
    REPORT = 3


class ChannelClosed(Exception):
    """The peer is gone, or sends what no peer would."""


class Channel:
    """One end. Unsent bytes wait in a buffer of `pending_bytes`; what does not fit is dropped."""

    def __init__(self, sock: socket.socket, pending_bytes: int) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._limit = pending_bytes
        self._out = bytearray()
        self._in = bytearray()
        self.dropped = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._out)

    def send(self, kind: Kind, payload: bytes) -> bool:
        """Queue a frame and send what goes without waiting; False if it was dropped.

        Raises ChannelClosed.
        """
        self.flush()
        if len(self._out) + HEADER.size + len(payload) > self._limit:
            self.dropped += 1
            return False
        self._out += HEADER.pack(len(payload), kind)
        self._out += payload
        self.flush()
        return True

    def flush(self) -> None:
        """Send what goes without waiting. Raises ChannelClosed."""
        while self._out:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            del self._out[:sent]

    def receive(self) -> list[tuple[Kind, bytes]]:
        """All whole frames there are, without waiting. Raises ChannelClosed once none is left."""
        closed = False
        while not closed:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            closed = not data
            self._in += data
        frames = []
        while len(self._in) >= HEADER.size:
            size, kind = HEADER.unpack_from(self._in)
            if size > MAX_FRAME_BYTES or kind not in list(Kind):
                raise ChannelClosed(f"bad frame: kind {kind}, {size} bytes")
            if len(self._in) < HEADER.size + size:
                break
            frames.append((Kind(kind), bytes(self._in[HEADER.size : HEADER.size + size])))
            del self._in[: HEADER.size + size]
        if closed and not frames:
            raise ChannelClosed("end of stream")
        return frames

    def close(self) -> None:
        self._socket.close()


def pack_step(step: Step) -> bytes:
    return to_bytes(
        {
            "number": np.array([step.number], np.int64),
            "identity": step.identity,
            "features": step.features,
            "service": step.service,
            "hidden": step.hidden,
            "u": step.u,
            "reward": step.reward,
        }
    )


def unpack_step(data: bytes) -> Step:
    arrays = from_bytes(data)
    number = int(arrays.pop("number")[0])
    return Step(number=number, **arrays)


def pack_parameters(parameters: Mapping[str, NDArray[np.float32]]) -> bytes:
    return to_bytes(dict(parameters))


def unpack_parameters(data: bytes) -> dict[str, NDArray[np.float32]]:
    return from_bytes(data)
