"""Watches the backends of one service, and is the one hand on their states.

Lives here: what sets and clears each reason, the timing of checks, slow start, what an operator
orders. Never here: the decisions themselves (pure, beside it), bytes on the wire
(`lbd.health.probe`), the flows' side (`lbd.service`).
Upstream: counters in the region, checks, operators. Downstream: `shm.states`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import random
from time import monotonic_ns
from typing import Final, Literal

import numpy as np

from config.address import Address
from config.health import Check, Feedback, Health, Probe
from lbd.health import probe
from lbd.health.ejection import Counts, Ejector
from lbd.health.feedback import Feedback as Said
from lbd.health.feedback import parse
from lbd.health.ramp import ramp
from lbd.health.verdict import Verdict
from shm import layout as lo
from shm.reader import Reader
from shm.region import Region, SlotEntry
from shm.states import (
    FEEDBACK_WITHDRAWN,
    UNHEALTHY,
    WITHDRAWN,
    Flag,
    StateWriter,
    label,
    state_rows,
)

log = logging.getLogger(__name__)

Order = Literal["ready", "drain", "maint"]
FLAG_OF: Final = {"drain": Flag.DRAIN, "maint": Flag.MAINT}
_DOWN: Final = Flag.CHECK_DOWN | Flag.FEEDBACK_DOWN
_OUT: Final = UNHEALTHY | WITHDRAWN
FOUND: Final = UNHEALTHY | FEEDBACK_WITHDRAWN
"""What is found out, as against what is ordered."""
_IN_MAINT: Final = Flag.MAINT | Flag.FEEDBACK_MAINT


@dataclass
class _Backend:
    """What is known of one backend beside its words in the region."""

    slot: int
    identity: int
    name: str
    address: Address
    out: bool = False
    back_ns: int = 0  # when its slow start began; 0 while there is none
    said_share: float = 1.0
    max_flows: int = 0  # as ordered; what the server says of itself goes before it
    drain_by_ns: int = 0
    settled: int = -1  # the flags that all this followed from
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Monitor:
    """Lives in the supervisor's loop; `tick` is to be called several times a second."""

    def __init__(self, region: Region, states: StateWriter) -> None:
        self._region = region
        self._reader = Reader(region)
        self._states = states
        self._flags = state_rows(region)[lo.STATE["flags"]]
        self._rule: Health | None = None
        self._ejector: Ejector | None = None
        self._backends: dict[int, _Backend] = {}
        self._followed = b""

    def configure(self, rule: Health, now_ns: int) -> None:
        """Go by `rule` from now on; what was found by another one counts no more."""
        if rule == self._rule:
            self._follow(now_ns)
            return
        first, self._rule = self._rule is None, rule
        self.close()
        known = set(self._backends)
        self._states.panic_below = rule.panic_below
        self._ejector = Ejector(rule.passive) if rule.passive else None
        self._follow(now_ns, cold=not first)
        for slot in known & set(self._backends):
            # What was ordered of it stays, and so does how long it has been there.
            backend = self._backends[slot]
            backend.said_share = 1.0
            self._states.limit(slot, backend.max_flows)
            self._states.clear(slot, FOUND, now_ns)
            self._settle(backend, now_ns)
            if not backend.tasks:
                self._employ(backend, rule)

    def tick(self, now_ns: int) -> None:
        """Follow the backends that come and go, the flows' news, and the clock."""
        self._follow(now_ns)
        if self._ejector is not None:
            self._eject(self._ejector, now_ns)
        for backend in self._backends.values():
            # Whatever else it follows from settles it at once.
            if backend.back_ns or int(self._flags[backend.slot]) != backend.settled:
                self._settle(backend, now_ns)

    def close(self) -> None:
        for backend in self._backends.values():
            for task in backend.tasks:
                task.cancel()
            backend.tasks.clear()

    # -- an operator's orders

    def order(self, name: str, state: Order, now_ns: int, deadline_s: float | None = None) -> None:
        """Withdraw a backend, or make it ready again. Raises KeyError for a name unknown.

        drain, maint: no new flows; those that are open after `deadline_s` are ended, none where it
        is None. maint: no checks either. ready: what was ordered is over; checks, ejections and
        the server's own word still count.
        """
        backend = self._named(name)
        self._tell(backend, f"is ordered to be {state}")
        wanted = FLAG_OF.get(state)
        for flag in FLAG_OF.values():
            if flag is wanted:
                self._states.set(backend.slot, flag, now_ns)
            else:
                self._states.clear(backend.slot, flag, now_ns)
        timed = state != "ready" and deadline_s is not None
        backend.drain_by_ns = now_ns + int((deadline_s or 0) * 1e9) if timed else 0
        self._settle(backend, now_ns)

    def limit(self, name: str, max_flows: int) -> None:
        """At most so many flows at once; 0 for no limit. Raises KeyError for a name unknown."""
        backend = self._named(name)
        backend.max_flows = max_flows
        self._states.limit(backend.slot, max_flows)

    def state(self, name: str) -> str:
        """One of `shm.states.LABELS`. Raises KeyError for a name unknown."""
        return label(self._states.flags(self._named(name).slot))

    def _named(self, name: str) -> _Backend:
        for backend in self._backends.values():
            if backend.name == name and not self._states.flags(backend.slot) & Flag.LEAVING:
                return backend
        raise KeyError(name)

    # -- backends come and go

    def _slots(self) -> list[int]:
        """Those whose backends are to stay."""
        active = self._region.active_slots()
        return [int(slot) for slot in active[self._flags[active] & np.uint64(Flag.LEAVING) == 0]]

    def _follow(self, now_ns: int, cold: bool = True) -> None:
        """`cold`: who is new was not there from the start, and begins as one that comes back."""
        identities = self._region.identities()
        # Ten times a second, and mostly for nothing.
        looked_at = identities.tobytes() + self._flags.tobytes() + self._region.bitmap()
        if looked_at == self._followed:
            return
        self._followed = looked_at
        present = {slot: int(identities[slot]) for slot in self._slots()}
        if present == {slot: backend.identity for slot, backend in self._backends.items()}:
            return
        for slot, backend in list(self._backends.items()):
            if present.get(slot) != backend.identity:
                for task in self._backends.pop(slot).tasks:
                    task.cancel()
        for slot in present.keys() - self._backends.keys():
            self._welcome(self._region.entry(slot), cold)
        self._states.refresh()

    def _welcome(self, entry: SlotEntry, cold: bool) -> None:
        assert self._rule is not None
        backend = _Backend(entry.slot, entry.identity, entry.name, Address.parse(entry.address))
        backend.out = cold
        self._backends[entry.slot] = backend
        self._employ(backend, self._rule)

    def _employ(self, backend: _Backend, rule: Health) -> None:
        """Whoever is to look after it from now on."""
        check, feedback = rule.check, rule.feedback
        if check is not None:
            self._watch(backend, check, self._checker(backend, check), _IN_MAINT)
        if feedback is not None and backend.address.kind != "unix":
            self._watch(backend, feedback, self._asker(backend, feedback), Flag(0))

    # -- what flows tell

    def _eject(self, ejector: Ejector, now_ns: int) -> None:
        table = self._reader.live(("first_byte_total", "completed_total", "unanswered_total"))
        if table is None:
            return
        known = {backend.identity: backend for backend in self._backends.values()}
        first_byte, completed, unanswered = table.tolist()
        counts = {
            identity: Counts(
                first_byte[backend.slot] + completed[backend.slot], unanswered[backend.slot]
            )
            for identity, backend in known.items()
        }
        for change in ejector.step(now_ns, counts):
            backend = known[change.backend]
            if change.refused:
                self._states.count(backend.slot, "ejections_refused_total")
            elif change.eject:
                self._states.count(backend.slot, "ejections_total")
                self._states.set(backend.slot, Flag.EJECTED, now_ns)
                self._tell(backend, f"fails its flows: ejected for {change.for_ns * 1e-9:g} s")
            else:
                self._states.clear(backend.slot, Flag.EJECTED, now_ns)
                self._tell(backend, "may try again after its ejection")

    # -- what follows from all that

    def _settle(self, backend: _Backend, now_ns: int) -> None:
        """Share, slow start and the deadline of open flows, from the flags and the clock."""
        assert self._rule is not None
        flags = self._states.flags(backend.slot)
        if flags & Flag.LEAVING:
            return
        out, slow_start = bool(flags & _OUT), self._rule.slow_start
        if out or slow_start is None:
            backend.back_ns = 0
        elif backend.out:
            backend.back_ns = now_ns
        backend.out = out
        share = backend.said_share
        if backend.back_ns and slow_start is not None:
            part = ramp(slow_start, now_ns - backend.back_ns)
            share *= part
            if part >= 1.0:
                backend.back_ns = 0
        turn = self._states.set if backend.back_ns else self._states.clear
        turn(backend.slot, Flag.SLOW_START, now_ns)
        if share != self._states.current_share(backend.slot):
            self._states.share(backend.slot, share)
        deadline_ns, told_ns = backend.drain_by_ns, self._states.get(backend.slot, "end_by_ns")
        if flags & _DOWN and self._rule.on_down == "reset":
            deadline_ns = min(told_ns or now_ns, now_ns)
        if deadline_ns != told_ns:
            self._states.end_by(backend.slot, deadline_ns)
        backend.settled = int(self._flags[backend.slot])

    def _tell(self, backend: _Backend, what: str) -> None:
        log.warning("service %s: backend %s %s", self._region.service, backend.name, what)

    # -- active checks and feedback

    def _watch(
        self, backend: _Backend, rule: Probe, step: Callable[[], Awaitable[int]], unless: Flag
    ) -> None:
        backend.tasks.append(asyncio.create_task(self._repeat(backend, rule, step, unless)))

    async def _repeat(
        self, backend: _Backend, rule: Probe, step: Callable[[], Awaitable[int]], unless: Flag
    ) -> None:
        """`step` for ever, but for when the backend has a flag of `unless`; it returns the
        milliseconds to the next."""
        pause_ms = rule.interval_ms * rule.jitter * random()
        while True:
            await asyncio.sleep(pause_ms * 1e-3)
            next_ms = rule.interval_ms
            if not self._states.flags(backend.slot) & unless:
                try:
                    next_ms = await step()
                except Exception:
                    # A fault of ours must not leave the backend unwatched.
                    log.critical("backend %s cannot be watched", backend.name, exc_info=True)
            pause_ms = next_ms * (1.0 + rule.jitter * (2.0 * random() - 1.0))

    def _checker(self, backend: _Backend, rule: Check) -> Callable[[], Awaitable[int]]:
        verdict = Verdict(rule.rise, rule.fall)
        unable = False

        async def step() -> int:
            nonlocal unable
            states, slot = self._states, backend.slot
            started_ns = monotonic_ns()
            try:
                problem = await probe.check(rule, backend.address)
            except OSError as error:
                # That says nothing of the backend.
                states.count(slot, "checks_undone_total")
                if not unable:
                    self._tell(backend, f"cannot be checked from here: {error.strerror}")
                unable = True
                return rule.interval_ms
            unable = False
            now_ns = monotonic_ns()
            states.checked(slot, now_ns - started_ns)
            states.count(slot, "checks_total")
            if problem:
                states.count(slot, "checks_failed_total")
            if verdict.take(not problem):
                if verdict.up:
                    states.clear(slot, Flag.CHECK_DOWN, now_ns)
                    self._tell(backend, "is up")
                else:
                    states.count(slot, "downs_total")
                    states.set(slot, Flag.CHECK_DOWN, now_ns)
                    self._tell(backend, f"is down: {problem}")
                self._settle(backend, now_ns)
            return rule.interval_ms if verdict.steady else min(rule.fast_ms, rule.interval_ms)

        return step

    def _asker(self, backend: _Backend, rule: Feedback) -> Callable[[], Awaitable[int]]:
        async def step() -> int:
            answer = await probe.ask(rule, backend.address)
            self._states.count(backend.slot, "feedback_asked_total")
            # Silence says nothing: whether the server can be reached is for checks to find out.
            if answer is None:
                self._states.count(backend.slot, "feedback_failed_total")
            else:
                self._obey(backend, parse(answer), monotonic_ns())
            return rule.interval_ms

        return step

    def _obey(self, backend: _Backend, said: Said, now_ns: int) -> None:
        """Do what the server asks for."""
        before = label(self._states.flags(backend.slot))

        def turn(flag: Flag, on: bool) -> None:
            (self._states.set if on else self._states.clear)(backend.slot, flag, now_ns)

        if said.admin is not None:
            turn(Flag.FEEDBACK_DRAIN, said.admin == "drain")
            turn(Flag.FEEDBACK_MAINT, said.admin == "maint")
        if said.up is not None:
            turn(Flag.FEEDBACK_DOWN, not said.up)
        if said.share is not None:
            turn(Flag.FEEDBACK_ZERO, said.share == 0.0)
            backend.said_share = said.share or 1.0
        if said.max_flows is not None:
            self._states.limit(backend.slot, said.max_flows)
        after = label(self._states.flags(backend.slot))
        if before != after:
            self._tell(backend, f"says of itself: {after} {said.reason}".rstrip())
        self._settle(backend, now_ns)
