"""One relay between real sockets, in the test's own loop, which turns only when told to.

Lives here: the loop, the pair of sockets, a ledger that is a list. What both peers have done before
the loop turns reaches the relay as one event: the order of things is the test's to choose.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import uvloop
from lbd_waiting import DEADLINE_S

from lbd.flow import Flow, Outcome
from lbd.poller import Poller
from lbd.relay import Relay


class ListLedger:
    """Every call as a tuple, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def dispatched(self, slot: int, now_ns: int) -> None:
        self.calls.append(("dispatched", slot))

    def connected(self, slot: int, now_ns: int, connect_ns: int) -> None:
        self.calls.append(("connected", slot))

    def asked(self, slot: int, wait_ns: int) -> None:
        self.calls.append(("asked", slot))

    def answered(self, slot: int, now_ns: int, duration_ns: int) -> None:
        self.calls.append(("answered", slot))

    def moved(self, slot: int, bytes_in: int, bytes_out: int) -> None:
        self.calls.append(("moved", slot, bytes_in, bytes_out))

    def ended(self, flow: Flow, outcome: Outcome, now_ns: int) -> None:
        self.calls.append(("ended", outcome))

    @property
    def names(self) -> list[str]:
        """The calls that change a flow's state; bytes and the client's first are none."""
        return [call[0] for call in self.calls if call[0] not in ("moved", "asked")]


class Rig:
    """`client` and `server` are the far ends of the relay; both block for at most DEADLINE_S."""

    def __init__(self, ledger: Any, flow: type[Flow]) -> None:
        self.loop = uvloop.new_event_loop()
        self.poller = Poller(self.loop)
        self.ledger = ledger
        self._flow = flow
        self.ended: list[Relay] = []
        self._sockets: list[socket.socket] = []
        self._relays: list[Relay] = []

    def _listen(self, family: int, bind: Any, backlog: int = 8) -> socket.socket:
        sock = self.keep(socket.socket(family, socket.SOCK_STREAM))
        sock.bind(bind)
        sock.listen(backlog)
        return sock

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close it with the rig."""
        sock.settimeout(DEADLINE_S)
        self._sockets.append(sock)
        return sock

    def accepted(self) -> tuple[socket.socket, socket.socket]:
        """(the client's end, the end that the balancer accepted)."""
        listener = self._listen(socket.AF_INET, ("127.0.0.1", 0))
        far = self.keep(socket.create_connection(listener.getsockname(), DEADLINE_S))
        near, _ = listener.accept()
        near.setblocking(False)
        return far, near

    def relay(self, near: socket.socket) -> Relay:
        flow = self._flow(self.ledger, 0, time.monotonic_ns())
        self._relays.append(Relay(self.poller, flow, near, self.ended.append))
        return self._relays[-1]

    def connected(
        self, family: int = socket.AF_INET, bind: Any = ("127.0.0.1", 0)
    ) -> tuple[Relay, socket.socket, socket.socket]:
        """(relay, the client, the server), connected through."""
        listener = self._listen(family, bind)
        far, near = self.accepted()
        relay = self.relay(near)
        relay.connect(family, listener.getsockname())
        server, _ = listener.accept()
        self.keep(server)
        self.turn_until(lambda: relay.flow.connected_ns > 0)
        return relay, far, server

    def turn_until(self, condition: Any, deadline_s: float = DEADLINE_S) -> None:
        async def turning() -> None:
            end = time.monotonic() + deadline_s
            while not condition():
                assert time.monotonic() < end, f"not in time; {self.ledger.calls}"
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(turning())

    def turn(self, times: int = 20) -> None:
        """Let whatever is ready happen."""

        async def turning() -> None:
            for _ in range(times):
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(turning())

    @property
    def outcome(self) -> Outcome | None:
        return self.ended[0].flow.outcome if self.ended else None

    def close(self) -> None:
        for relay in self._relays:
            if relay.flow.outcome is None:
                relay.abort(Outcome.SHUTDOWN)
        self.poller.close()
        self.loop.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.close()


@contextlib.contextmanager
def rig(ledger: Any = None, flow: type[Flow] = Flow) -> Iterator[Rig]:
    one = Rig(ledger or ListLedger(), flow)
    try:
        yield one
    finally:
        one.close()
