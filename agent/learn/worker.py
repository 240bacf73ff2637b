"""The learner's process: receive steps, update, send parameters, save.

Lives here: the loop and its pace. Never here: losses (`sac`), what a checkpoint holds (`state`).
Upstream and downstream: `agent.learn.process`, through one socket; its end of stream ends us.
"""

from __future__ import annotations

import json
import math
import select
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from agent.act.network import ParameterError
from agent.learn.checkpoint import CheckpointError, load, save
from agent.learn.replay import Replay
from agent.learn.sac import Learner, Losses
from agent.learn.state import capture, restore
from agent.learn.wire import (
    Channel,
    ChannelClosed,
    Kind,
    pack_parameters,
    unpack_parameters,
    unpack_step,
)
from agent.settings import LearnSettings, ProcessSettings

# Updates that may wait for a slow core, in steps: beyond, learning falls behind rather than late.
BACKLOG_STEPS = 8.0
# A learner that has nothing to update still tells how it is.
REPORT_S = 1.0


def serve(
    sock: socket.socket,
    settings: LearnSettings,
    process: ProcessSettings,
) -> None:
    """Run until the acting side closes its end; save at the end."""
    # Ctrl-C and a service manager reach the whole group; the end of stream is what ends us, after
    # saving.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    Worker(Channel(sock, process.pending_bytes), settings, process).run()


class Worker:
    """One learner behind one channel."""

    def __init__(
        self,
        channel: Channel,
        settings: LearnSettings,
        process: ProcessSettings,
    ) -> None:
        self._channel = channel
        self._process = process
        self._checkpoint = process.checkpoint
        replay = Replay(settings.replay_steps, settings.max_backends)
        self._learner = Learner(settings, replay)
        self._problem = ""
        self._resumed = self._resume()
        self._losses: Losses | None = None
        self._owed = 0.0
        # The acting side has what we began with, unless that came from the checkpoint.
        self._published_updates = None if self._resumed else self._learner.updates
        self._published_s = self._reported_s = -math.inf
        self._reported: tuple[str, int] | None = None
        self._saved_s = time.monotonic()

    def run(self) -> None:
        """Publish, receive, update, save; returns once the other end is closed."""
        try:
            while True:
                self._publish()
                self._receive()
                self._update()
                if time.monotonic() - self._saved_s >= self._process.checkpoint_every_s:
                    self._save()
        except ChannelClosed:
            self._save()

    def _resume(self) -> bool:
        """From the checkpoint if there is one. A bad one is reported, and learning starts anew."""
        path = self._checkpoint
        if path is None or not path.exists():
            return False
        try:
            restore(self._learner, load(path))
        except CheckpointError as error:
            self._set_aside(path, str(error))
            return False
        return True

    def _set_aside(self, path: Path, reason: str) -> None:
        """What cannot be read is kept for whoever can tell why: the next save takes its name."""
        bad = path.with_name(f"{path.name}.bad")
        try:
            path.replace(bad)
        except OSError as error:
            # Rather no checkpoint than this one overwritten.
            self._checkpoint = None
            self._problem = f"{reason}; nothing is saved, it cannot be moved aside: {error}"
        else:
            self._problem = f"{reason}; kept as {bad.name}, learning starts anew"

    def _receive(self) -> None:
        waiting_s = 0.0 if self._owed >= 1.0 else 0.5
        select.select([self._channel], [], [], waiting_s)
        settings = self._learner.settings
        for kind, payload in self._channel.receive():
            if kind is Kind.PARAMETERS:
                self._begin_with(unpack_parameters(payload))
            elif kind is Kind.STEP and self._learner.replay.add(unpack_step(payload)):
                limit = BACKLOG_STEPS * settings.updates_per_step
                self._owed = min(self._owed + settings.updates_per_step, limit)

    def _begin_with(self, actor: Mapping[str, NDArray[np.float32]]) -> None:
        """The acting side's parameters, its first message: a checkpoint knows more than they do."""
        if self._resumed:
            return
        try:
            self._learner.load_actor(actor)
        except ParameterError as error:
            # They may come from a learner that diverged; dying of them would repeat for ever.
            self._problem = f"learning starts anew: {error}"

    def _update(self) -> None:
        if self._owed < 1.0:
            return
        losses = self._learner.update(1)
        # Without a whole chunk there is nothing to catch up on later either.
        self._owed = self._owed - 1.0 if losses is not None else 0.0
        self._losses = losses or self._losses

    def _publish(self) -> None:
        """Parameters after updates, a report with them, on a timer, and when there is trouble."""
        self._channel.flush()
        if self._channel.pending:
            # A reader that is behind gets the next set, not a queue of old ones.
            return
        now_s = time.monotonic()
        new = self._learner.updates != self._published_updates
        if new and now_s - self._published_s >= self._process.publish_s:
            self._channel.send(Kind.PARAMETERS, pack_parameters(self._learner.actor_arrays()))
            self._published_s, self._published_updates = now_s, self._learner.updates
            self._report(now_s)
        elif now_s - self._reported_s >= REPORT_S or self._trouble() != self._reported:
            self._report(now_s)

    def _trouble(self) -> tuple[str, int]:
        return self._problem, self._learner.replay.refused

    def _report(self, now_s: float) -> None:
        report = {
            "updates": self._learner.updates,
            "replay_steps": len(self._learner.replay),
            "replay_refused": self._learner.replay.refused,
            "replay_overwritten": self._learner.replay.overwritten,
            "losses": asdict(self._losses) if self._losses is not None else None,
            "problem": self._problem,
        }
        self._channel.send(Kind.REPORT, json.dumps(report).encode())
        self._reported_s, self._reported = now_s, self._trouble()

    def _save(self) -> None:
        self._saved_s = time.monotonic()
        if self._checkpoint is None or self._learner.updates == 0:
            return
        try:
            save(capture(self._learner), self._checkpoint)
        except (CheckpointError, OSError) as error:
            # A full disk must not end learning; the report tells.
            self._problem = str(error)
