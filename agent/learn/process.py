"""The learner in a process of its own, as the acting side sees it.

Lives here: starting, feeding, polling, noticing a crash, starting again. Never here: torch, and
nothing that waits, but for `close`.
Upstream: `agent.agent` (steps). Downstream: `agent.learn.worker` (the process), and back again.

If the learner dies, the agent acts on with the parameters it has; a new process starts after a
pause that doubles, from the last checkpoint or else the last parameters. The replay is lost.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.learn.wire import (
    Channel,
    ChannelClosed,
    Kind,
    pack_parameters,
    pack_step,
    unpack_parameters,
)
from agent.settings import LearnSettings, ProcessSettings
from agent.steps import Step

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass
class ProcessCounters:
    """Since this object was made, over all processes it started."""

    sent: int = 0
    dropped: int = 0
    received: int = 0
    starts: int = 0
    crashes: int = 0


def _enter(sock: socket.socket, learn: LearnSettings, process: ProcessSettings) -> None:
    """The new process's first function: torch is imported here, on the other side."""
    os.nice(process.niceness)
    from agent.learn.worker import serve

    serve(sock, learn, process)


class LearnerProcess:
    """A LearnerPort whose learner runs elsewhere. `push` and `poll` never block."""

    def __init__(
        self,
        learn: LearnSettings,
        process: ProcessSettings,
        initial: Arrays | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._learn = learn
        self._process = process
        self._parameters = initial
        self._clock_s = clock_s
        self._context = multiprocessing.get_context("spawn")
        self._child: Any = None
        self._channel: Channel | None = None
        self._pause_s = process.restart_first_s
        self._started_s = 0.0
        self._start_at_s: float | None = None
        self.counters = ProcessCounters()
        self.report: dict[str, Any] = {}
        self._start()
        # At exit multiprocessing sends SIGTERM, which the child ignores, and waits for it. What is
        # registered last runs first, and `_start` has it register its own.
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        return self._channel is not None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def push(self, step: Step) -> bool:
        """Send a step; False if there is no learner or its queue is full."""
        sent = False
        if self._channel is not None:
            try:
                sent = self._channel.send(Kind.STEP, pack_step(step))
            except ChannelClosed:
                self._crashed()
        if sent:
            self.counters.sent += 1
        else:
            self.counters.dropped += 1
        return sent

    def poll(self) -> Arrays | None:
        """The newest parameters, if new ones came; also notices a crash and restarts in time."""
        self._restart_if_due()
        if self._channel is None:
            return None
        newest: bytes | None = None
        try:
            self._channel.flush()
            for kind, payload in self._channel.receive():
                if kind is Kind.PARAMETERS:
                    newest = payload
                elif kind is Kind.REPORT:
                    self.report = json.loads(payload)
        except ChannelClosed:
            self._crashed()
        if newest is None:
            return None
        self.counters.received += 1
        self._parameters = unpack_parameters(newest)
        return self._parameters

    def close(self, timeout_s: float = 10.0) -> None:
        """End the process: it saves and leaves by itself, or is killed after `timeout_s`."""
        atexit.unregister(self.close)
        self._start_at_s = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._child is not None:
            self._child.join(timeout_s)
            if self._child.is_alive():
                self._child.kill()
                self._child.join()
            self._child.close()
            self._child = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = self._context.Process(
                target=_enter,
                args=(theirs, self._learn, self._process),
                name="lbd-learner",
                daemon=True,
            )
            self._child.start()
        # Only the child holds the other end now: its death, and ours, are seen as end of stream.
        self._channel = Channel(ours, self._process.pending_bytes)
        self._started_s = self._clock_s()
        self._start_at_s = None
        self.counters.starts += 1
        if self._parameters is None:
            return
        # Not among the arguments: those go through a pipe that waits for the child to read.
        try:
            self._channel.send(Kind.PARAMETERS, pack_parameters(self._parameters))
        except ChannelClosed:
            self._crashed()

    def _crashed(self) -> None:
        now_s = self._clock_s()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.counters.crashes += 1
        if now_s - self._started_s > self._process.restart_most_s:
            self._pause_s = self._process.restart_first_s
        self._start_at_s = now_s + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, self._process.restart_most_s)

    def _restart_if_due(self) -> None:
        if self._start_at_s is None or self._clock_s() < self._start_at_s:
            return
        if self._child is not None:
            # It closed its end but may linger; a second one beside it would race for the file.
            self._child.kill()
            self._child.join(0.0)
            if self._child.is_alive():
                return
            self._child.close()
            self._child = None
        self._start()
