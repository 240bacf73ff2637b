"""UDP sessions of one service in one worker: the datagrams between one client and its backend.

Lives here: the table of sessions, their sockets, what ends them. Never here: the choice of a
backend (`lbd.service`), what an event counts as (`lbd.flow`).

Laws. A session is the client's address and the one it sent to, on one side, and a connected socket
on the other, so that its backend sees one source and the kernel reports ICMP errors to it. Its
datagrams pass unchanged and unqueued: what a full socket buffer does not take is dropped and
counted, as a router would. The table is bounded; who comes when it is full is dropped and counted.

Nobody says when a session is over. With `responses` it is when every datagram has had so many
answers, otherwise when it has been idle; one that got an answer has completed then. A backend whose
port is unreachable has failed the session; while it had no answer yet, its first datagram goes to
another backend, to as many and within the same budget as flows of connections (`retry`).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from lbd.edge.bound import Bound
from lbd.flow import Flow, Outcome
from lbd.poller import READ, Poller
from lbd.service import Service
from lbd.sockets import sockaddr_name
from lbd.udp.sockets import ANCILLARY_BYTES, answer_from, bound_everywhere, control

_DATAGRAM_BYTES: Final = 65536
_ROUNDS: Final = 64
"""Datagrams in a row before other flows have their turn."""
HELD_BYTES: Final = 2048
"""A first datagram of up to so many bytes is kept for another backend, until there is an answer."""
LINGER_NS: Final = 1_000_000_000
"""How long a stopping service waits for answers under way: less than the next one's bind does."""

# Fatal ICMP errors of a connected socket (udp(7)), and what the routing table tells at once.
_UNREACHABLE: Final = frozenset(
    (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT)
)

_buffer: Final = memoryview(bytearray(_DATAGRAM_BYTES))

Key = tuple[Any, bytes]
"""The client's sockaddr, and the local address it sent to where the service has several."""


class Sessions:
    """All sessions of a service in this worker, at most `bound.max_flows`.

    `sockets` are bound to one address: any of them can answer what came to another.
    """

    def __init__(
        self,
        service: Service,
        sockets: Sequence[socket.socket],
        poller: Poller,
        bound: Bound,
    ) -> None:
        self.service = service
        self.poller = poller
        self.closed_ns = 0
        rows = service.block.rows
        self.datagrams_in = rows["datagrams_in_total"]
        self.datagrams_out = rows["datagrams_out_total"]
        self.dropped = rows["datagrams_dropped_total"]
        self._sockets = sockets
        self._everywhere = bound_everywhere(sockets[0])
        self.bound = bound
        self._table: dict[Key, Session] = {}
        for sock in sockets:
            # Level-triggered: what is left after a round is told again.
            poller.watch(sock.fileno(), partial(self._on_ready, sock), READ)

    def resume(self) -> None:
        """A full table takes nobody, and needs no telling when there is room."""

    def limit(self, bound: Bound) -> None:
        """Another bound from the next session on."""
        self.bound = bound

    def close(self) -> None:
        """Read no more: who comes now is another process's. Who waits for an answer may have it."""
        self.closed_ns = monotonic_ns()
        for sock in self._sockets:
            self.poller.unwatch(sock.fileno())
        if not self._table:
            self._close_sockets()
        for session in list(self._table.values()):
            session.linger(self.closed_ns)

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            self.poller.close_socket(sock)

    def _on_ready(self, sock: socket.socket, events: int) -> None:
        for _ in range(_ROUNDS):
            try:
                count, key = self._receive(sock)
            except BlockingIOError:
                return
            session = self._table.get(key)
            if session is None:
                if len(self._table) >= self.bound.max_flows:
                    self.service.block.count("sessions_refused_total")
                else:
                    self.service.block.count("accepted_total")
                    self.open(key, bytes(_buffer[:count]))
            else:
                session.ask(_buffer[:count])

    def _receive(self, sock: socket.socket) -> tuple[int, Key]:
        if self._everywhere:
            count, received, _, peer = sock.recvmsg_into([_buffer], ANCILLARY_BYTES)
            return count, (peer, answer_from(received))
        count, peer = sock.recvfrom_into(_buffer)
        return count, (peer, b"")

    def open(self, key: Key, data: bytes, tried: tuple[int, ...] = ()) -> None:
        """A session that begins with `data`; `tried` are slots that have failed it already."""
        now_ns = monotonic_ns()
        flow = self.service.dispatch(key[0], now_ns, tried)
        if tried and flow is None:
            self.dropped[tried[-1]] += 1
        if flow is None:
            return
        if tried:
            self.service.block.count("sessions_redispatched_total")
        family, address = self.service.address[flow.slot]
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError:
            flow.end(Outcome.LOCAL_FAILED, now_ns)
            return
        session = Session(self, key, flow, sock, tried)
        try:
            if self.service.egress is not None:
                self.service.egress(sock)
            sock.connect(address)
        except OSError as error:
            sock.close()
            if error.errno not in _UNREACHABLE:
                flow.end(Outcome.LOCAL_FAILED, now_ns)
                return
            flow.end(Outcome.CONNECT_FAILED, now_ns)
            self.again(key, flow.slot, [data], tried)
            return
        self._table[key] = session
        self.service.relays.add(session)
        flow.connected(now_ns)
        self.poller.watch(sock.fileno(), session.on_event, READ)
        session.begin(data)

    def again(self, key: Key, slot: int, data: list[bytes], tried: tuple[int, ...]) -> None:
        """Give what `slot`, the last of those tried, did not get to another backend."""
        if self.closed_ns or len(tried) >= self.service.config.retry.others:
            self.dropped[slot] += len(data)
            return
        for datagram in data:
            session = self._table.get(key)
            if session is None:
                self.open(key, datagram, (*tried, slot))
            else:
                session.ask(datagram)

    def answer(self, key: Key, data: memoryview) -> bool:
        """Send to the client. False if that was not possible."""
        peer, local = key
        try:
            if local:
                self._sockets[0].sendmsg([data], control(local), 0, peer)
            else:
                self._sockets[0].sendto(data, peer)
        except OSError:
            return False
        return True

    def forget(self, session: Session) -> None:
        """It is over."""
        del self._table[session.key]
        self.service.relays.discard(session)
        if self.closed_ns and not self._table:
            self._close_sockets()


class Session:
    """One client's datagrams to one backend and back. `asked` and `answers` count them."""

    __slots__ = (
        "answers",
        "asked",
        "backend_news",
        "bytes_in",
        "bytes_out",
        "client_news",
        "flow",
        "held",
        "idle_since_ns",
        "key",
        "reported",
        "sessions",
        "sock",
        "tried",
    )

    def __init__(
        self,
        sessions: Sessions,
        key: Key,
        flow: Flow,
        sock: socket.socket,
        tried: tuple[int, ...],
    ) -> None:
        self.sessions = sessions
        self.key = key
        self.flow = flow
        self.sock = sock
        self.tried = tried
        self.held: bytes | None = None
        self.idle_since_ns = flow.accepted_ns
        self.asked = self.answers = 0
        self.bytes_in = self.bytes_out = 0
        self.reported = (0, 0, 0, 0)
        # As with a relay's ends: whether the next datagram is one that the flow is told of.
        self.client_news = self.backend_news = True

    def begin(self, data: bytes) -> None:
        """Its first datagram."""
        if len(data) <= HELD_BYTES:
            self.held = data
        self.ask(data)

    def ask(self, data: bytes | memoryview) -> None:
        """A datagram of the client's."""
        self.idle_since_ns = now_ns = monotonic_ns()
        if self.client_news:
            self.client_news = False
            self.backend_news = self.backend_news or self.flow.turns
            self.flow.asked(now_ns)
        self.asked += 1
        self.bytes_in += len(data)
        try:
            self.sock.send(data)
        except OSError as error:
            if error.errno in _UNREACHABLE:
                # About an earlier datagram; this one has not left.
                self._fail(bytes(data))
            else:
                self.sessions.dropped[self.flow.slot] += 1

    def on_event(self, events: int) -> None:
        """The poller's call: datagrams of the backend's, or the news that it is gone."""
        recv_into, sessions = self.sock.recv_into, self.sessions
        for _ in range(_ROUNDS):
            try:
                count = recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                self._fail(None)
                return
            self.idle_since_ns = now_ns = monotonic_ns()
            self.held = None
            if self.backend_news:
                self.backend_news = False
                self.client_news = self.flow.turns
                self.flow.answered(now_ns)
            self.answers += 1
            self.bytes_out += count
            if not sessions.answer(self.key, _buffer[:count]):
                sessions.dropped[self.flow.slot] += 1
            if sessions.closed_ns or self._answered_in_full():
                self.end(Outcome.COMPLETED, now_ns)
                return

    def _answered_in_full(self) -> bool:
        responses = self.sessions.service.config.responses
        return responses is not None and self.answers >= responses * self.asked

    def _fail(self, unsent: bytes | None) -> None:
        """The backend is gone: what it surely did not get goes to another."""
        answered = self.flow.first_byte_ns > 0
        self.end(Outcome.BACKEND_RESET if answered else Outcome.CONNECT_FAILED, monotonic_ns())
        data = [datagram for datagram in (self.held, unsent) if datagram is not None]
        self.sessions.again(self.key, self.flow.slot, data, self.tried)

    def linger(self, now_ns: int) -> None:
        """The service stops: stay for an answer only."""
        if not self.flow.waiting:
            self.end(Outcome.COMPLETED, now_ns)

    def client_name(self) -> str:
        return sockaddr_name(self.key[0])

    def carried(self) -> tuple[int, int]:
        """Bytes from the client and to it."""
        return self.bytes_in, self.bytes_out

    def check(self, now_ns: int, connect_ns: int, idle_ns: int, total_ns: int) -> None:
        """Account for what passed since the last check; end what is idle or too old."""
        self._account()
        flow, closed_ns = self.flow, self.sessions.closed_ns
        if flow.turns:
            flow.look(now_ns)
        if closed_ns and now_ns - closed_ns > LINGER_NS:
            self.abort(Outcome.SHUTDOWN)
        elif now_ns - self.idle_since_ns > idle_ns:
            self._idle(now_ns)
        elif total_ns and now_ns - flow.accepted_ns > total_ns:
            self.abort(Outcome.TOTAL_TIMEOUT)

    def _idle(self, now_ns: int) -> None:
        if self.flow.first_byte_ns:
            # It was over with its last datagram; only now is that known.
            self.end(Outcome.COMPLETED, self.idle_since_ns)
        elif self.sessions.service.config.responses is None:
            self.abort(Outcome.IDLE_TIMEOUT)
        else:
            self.abort(Outcome.BACKEND_SILENT)

    def abort(self, outcome: Outcome) -> None:
        """End it now."""
        self.end(outcome, monotonic_ns())

    def end(self, outcome: Outcome, now_ns: int) -> None:
        """Close the socket and the account."""
        self._account()
        self.sessions.poller.close_socket(self.sock)
        self.flow.end(outcome, now_ns)
        self.sessions.forget(self)

    def _account(self) -> None:
        """Not with each datagram: a few times a second is enough."""
        flow, sessions, slot = self.flow, self.sessions, self.flow.slot
        now = (self.asked, self.answers, self.bytes_in, self.bytes_out)
        asked, answers, bytes_in, bytes_out = (
            a - b for a, b in zip(now, self.reported, strict=True)
        )
        self.reported = now
        flow.bytes_in, flow.bytes_out = self.bytes_in, self.bytes_out
        sessions.datagrams_in[slot] += asked
        sessions.datagrams_out[slot] += answers
        flow.ledger.moved(slot, bytes_in, bytes_out)
