"""The workers of one configuration on their sockets and regions: started, kept alive, drained.

Lives here: worker processes and what is said to them. Never here: a flow; which configuration is
in force (`lbd.supervisor`).
A worker that dies takes only its own flows with it. A fleet that is replaced goes on until its
flows are over, on regions that no longer have a name.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final

from config.schema import Config
from lbd.channel import Channel, Message
from lbd.edge.fronts import create_tables
from lbd.listening import Sockets
from lbd.worker import Assignment
from shm.layout import SCALAR
from shm.region import Region
from shm.worker import retire, scalars_view

# numpy's linear algebra would start threads that a worker never uses.
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

log = logging.getLogger(__name__)

HUNG_S: Final = 10.0
"""A worker whose loop stood still for so long is aborted; faulthandler then tells where it was."""
STOP_S: Final = 5.0
RESTART_MIN_S: Final = 0.05
RESTART_MAX_S: Final = 5.0
STEADY_S: Final = 10.0
"""A worker that lived so long has not failed at its start: no back-off for its successor."""
ANSWER_S: Final = 2.0
"""How long a worker may take to answer; one that hangs does not hold up who asks."""


class Worker:
    """One process and its line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.channel = Channel(self._on_message, self._on_end)
        self.aborted = False
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Message]] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ask(self, order: Message) -> Message | None:
        """The worker's answer; None where there is none in time."""
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if not self.channel.send({**order, "number": number}):
                return None
            return await asyncio.wait_for(answer, ANSWER_S)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            # It may have ended by itself a moment ago; its keeper sees that.
            self.process.send_signal(number)

    def _on_message(self, message: Message) -> None:
        answer = self._asked.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _on_end(self) -> None:
        for answer in self._asked.values():
            answer.cancel()


class Fleet:
    """`shares`: of each service, what each worker accepts from. `regions`: of each service."""

    def __init__(
        self, config: Config, shares: Sequence[Sequence[Sockets]], regions: Sequence[Region]
    ) -> None:
        self.config = config
        self.regions = list(regions)
        self.restarts_total = 0
        self._messages_dropped_before = 0
        self._shares = shares
        self._workers: dict[int, Worker] = {}
        self._ending = asyncio.Event()
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._keepers: list[asyncio.Task[None]] = []
        self._tables = create_tables(config)

    def start(self) -> None:
        self._keepers = [asyncio.create_task(self._keep(i)) for i in range(self.config.workers)]

    @property
    def workers(self) -> dict[int, Worker]:
        return dict(self._workers)

    @property
    def messages_dropped_total(self) -> int:
        """To workers that have ended, too."""
        dropped = (worker.channel.dropped_total for worker in self._workers.values())
        return self._messages_dropped_before + sum(dropped)

    @property
    def ready(self) -> bool:
        """Whether all workers serve all services."""
        return all(map(self._last_beat_ns, range(self.config.workers)))

    @property
    def serving(self) -> bool:
        """Whether any worker serves all services."""
        return any(map(self._last_beat_ns, range(self.config.workers)))

    # -- what is in force

    async def configure(self, config: Config) -> bool:
        """Let all workers go by another configuration that needs no new ones.

        False where one has not confirmed it, for it was starting, hangs, or cannot do it now: it
        may still go by the old one for a moment.
        """
        self.config = config
        order = {"order": "configure", "config": config.model_dump(mode="json")}
        answers = await self.ask(order)
        for index, answer in answers.items():
            if "error" in answer:
                log.warning("worker %d: %s", index, answer["error"])
        return sum("error" not in answer for answer in answers.values()) == config.workers

    async def ask(self, order: Message) -> dict[int, Message]:
        """The answers of those workers that answered, by their number."""
        workers = self.workers
        answers = await asyncio.gather(
            *(worker.ask(order) for worker in workers.values()), return_exceptions=True
        )
        return {
            index: answer
            for index, answer in zip(workers, answers, strict=True)
            if isinstance(answer, dict)
        }

    # -- keeping

    def hold(self) -> None:
        """Start no successors: the names of the regions are about to change hands."""
        self._may_start.clear()

    def resume(self) -> None:
        self._may_start.set()

    async def _keep(self, index: int) -> None:
        """Start worker `index`, and a successor whenever it dies, until told to stop."""
        delay_s = RESTART_MIN_S
        while not self._ending.is_set():
            await self._may_start.wait()
            if self._ending.is_set():
                return
            started_ns = monotonic_ns()
            try:
                worker = await self._start(index)
            except OSError as error:
                log.error("worker %d cannot be started: %s", index, error)
                delay_s = await self._pause(min(delay_s * 2, RESTART_MAX_S))
                continue
            status = await worker.process.wait()
            worker.channel.close()
            self._messages_dropped_before += worker.channel.dropped_total
            del self._workers[index]
            for region in self.regions:
                retire(region, index)
            if self._ending.is_set():
                return
            self.restarts_total += 1
            steady = monotonic_ns() - started_ns > STEADY_S * 1e9
            delay_s = RESTART_MIN_S if steady else min(delay_s * 2, RESTART_MAX_S)
            log.error("worker %d (pid %d) %s; restarting", index, worker.pid, _ending(status))
            await self._pause(delay_s)

    async def _pause(self, delay_s: float) -> float:
        """Wait so long, or until told to stop; returns the delay, to be the base of the next."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), delay_s)
        return delay_s

    async def _start(self, index: int) -> Worker:
        fds = [[sock.fileno() for sock in shares[index]] for shares in self._shares]
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "lbd.worker",
                    stdin=theirs.fileno(),
                    env={**os.environ, **_ONE_THREAD},
                    pass_fds=sorted({*itertools.chain(*fds), *self._tables.values()}),
                )
            except BaseException:
                ours.close()
                raise
        worker = self._workers[index] = Worker(process)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: worker.channel, sock=ours)
        generations = [region.generation for region in self.regions]
        config = self.config.model_dump(mode="json")
        assignment = Assignment(index, config, fds, generations, self._tables)
        if not worker.channel.send(assignment.message()):
            log.error("worker %d: its assignment could not be sent", index)
            worker.signal(signal.SIGKILL)
        if self._ending.is_set():
            worker.signal(signal.SIGTERM)
        return worker

    def look_after(self, now_ns: int) -> None:
        """Beat for the regions, end workers that hang."""
        for region in self.regions:
            region.beat(now_ns)
        for index, worker in self.workers.items():
            last_ns = self._last_beat_ns(index)
            silent_s = (now_ns - last_ns) * 1e-9 if last_ns else 0.0
            if silent_s > HUNG_S and not worker.aborted:
                log.error("worker %d (pid %d) hangs: aborting it", index, worker.pid)
                worker.aborted = True
                worker.signal(signal.SIGABRT)
            elif silent_s > HUNG_S + STOP_S:
                # A stopped process gets no other signal.
                worker.signal(signal.SIGKILL)

    def _last_beat_ns(self, index: int) -> int:
        """0 until the worker serves all services."""
        return min(
            int(scalars_view(region, index)[SCALAR["heartbeat_ns"]]) for region in self.regions
        )

    # -- the end

    def end(self, graceful: bool) -> None:
        """Accept no more; gracefully, open flows may finish for as long as each service permits."""
        self._ending.set()
        self._may_start.set()
        for worker in self._workers.values():
            worker.signal(signal.SIGQUIT if graceful else signal.SIGTERM)
        wait_s = STOP_S
        if graceful:
            wait_s += max(service.timeouts.drain_s for service in self.config.services)
        asyncio.get_running_loop().call_later(wait_s, self._kill)

    async def gone(self) -> None:
        """Until the last worker has ended."""
        await asyncio.gather(*self._keepers)
        while self._tables:
            os.close(self._tables.popitem()[1])

    def _kill(self) -> None:
        for worker in self._workers.values():
            log.error("worker pid %d did not stop: killing it", worker.pid)
            worker.signal(signal.SIGKILL)


def _ending(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
