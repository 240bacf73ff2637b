"""Moves the bytes of a flow between its client and its backend.

Lives here: the sockets of a flow, back-pressure, half-close, resets. Never here: the choice of a
backend (`lbd.service`), what an event counts as (`lbd.flow`).

Laws. Bytes are read only when the other end has taken all that was read before: an end holds at
most one buffer (`READ_BYTES`) that its socket did not accept. End of file on one end becomes a
half-close of the other once that is empty; the flow is complete when both are through. A reset of
one end becomes a reset of the other. Sockets are watched edge-triggered: an end reads until a short
read, then waits; an end that stops for its peer's sake remembers that it is `readable`. A hang-up
is told once, maybe together with the last bytes: an end that is `hung_up` reads to the very end.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final

from lbd.edge.arrival import Arrival
from lbd.flow import Flow, Outcome
from lbd.poller import ERROR, HANGUP, READ, WRITE, Poller
from lbd.sockets import OWN_LIMITS, peer_name, sockaddr_name

READ_BYTES: Final = 65536
_ROUNDS: Final = 16
"""Reads in a row before other flows have their turn: at most 1 MiB."""

_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s
_OVER: Final = HANGUP | ERROR
_READABLE: Final = READ | _OVER
_CALM: Final = READ | WRITE

# One buffer for all flows of the process: it never holds anything between two calls.
_buffer: Final = memoryview(bytearray(READ_BYTES))
# Its first bytes, cut ready: most messages are short, and cutting costs as much as a call.
_SHORT: Final = 2048
_short: Final = tuple(_buffer[:count] for count in range(_SHORT))


def _connect_outcome(error: int | None) -> Outcome:
    if error in OWN_LIMITS:
        return Outcome.LOCAL_FAILED
    # A refusal is ECONNREFUSED; this one was accepted and reset before we looked.
    return Outcome.BACKEND_RESET if error == errno.ECONNRESET else Outcome.CONNECT_FAILED


def _give_up(relay: Relay, outcome: Outcome) -> bool:
    return False


class Relay:
    """One flow's two ends, from the dispatch to the close of both sockets.

    `on_end(relay)` is called once, when both are gone. `on_fail(relay, outcome)` is called when the
    backend fails and has taken no byte of the client's; if it returns True it has found a way for
    the flow to go on, by `leave` and `connect`. `tried` are the slots of attempts that failed.
    """

    __slots__ = (
        "arrival",
        "backend",
        "client",
        "flow",
        "idle_since_ns",
        "moved_in",
        "moved_out",
        "on_end",
        "on_fail",
        "outcome",
        "pending",
        "poller",
        "tried",
    )

    def __init__(
        self,
        poller: Poller,
        flow: Flow,
        client: socket.socket,
        on_end: Callable[[Relay], None],
        on_fail: Callable[[Relay, Outcome], bool] = _give_up,
    ) -> None:
        self.poller = poller
        self.flow = flow
        self.arrival: Arrival | None = None  # what came before the flow, if anything did
        self.client = End(self, client)
        self.backend: End | None = None
        self.on_end = on_end
        self.on_fail = on_fail
        self.tried: tuple[int, ...] = ()
        self.pending = b""  # of the client's, taken back from a backend that did not take it
        self.outcome = Outcome.COMPLETED  # of a flow that both ends have ended in order
        self.idle_since_ns = flow.accepted_ns
        self.moved_in = self.moved_out = 0

    def connect(
        self, family: int, address: Any, egress: Callable[[socket.socket], None] | None = None
    ) -> None:
        """Start connecting; a failure at once or later is an outcome of the flow."""
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.fail(_connect_outcome(error.errno))
            return
        self.backend = backend = End(self, sock)
        backend.peer, self.client.peer = self.client, backend
        try:
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if egress is not None:
                egress(sock)
            sock.connect(address)
        except BlockingIOError:
            if family == socket.AF_UNIX:
                # Its accept queue is full: nothing is under way that epoll could report.
                self.fail(Outcome.CONNECT_FAILED)
                return
        except OSError as error:
            self.fail(_connect_outcome(error.errno))
            return
        self.poller.watch(sock.fileno(), self._on_connect)

    def _on_connect(self, events: int) -> None:
        client, backend = self.client, self.backend
        assert backend is not None
        if not events & (WRITE | ERROR | HANGUP):
            return
        if error := backend.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.fail(_connect_outcome(error))
            return
        self.flow.connected(monotonic_ns())
        self.poller.rehandle(backend.fd, backend.on_event)
        self.poller.watch(client.fd, client.on_event)
        if (self.pending or self.arrival is not None) and not self._lead():
            return
        # The client has mostly spoken by now: reading at once saves a turn of the poller.
        client.pump()
        if events & READ and self.flow.outcome is None:
            backend.on_event(events)

    def client_name(self) -> str:
        """By its PROXY header, if it has one."""
        if self.arrival is not None:
            return sockaddr_name(self.arrival.peer)
        return peer_name(self.client.sock)

    def carried(self) -> tuple[int, int]:
        """Bytes from the client and to it."""
        return self.client.bytes_read, self.backend.bytes_read if self.backend is not None else 0

    def check(self, now_ns: int, connect_ns: int, idle_ns: int, total_ns: int) -> None:
        """Account for what moved since the last check; end the flow if a limit has passed.

        Called a few times a second, so that moving bytes sets no clock. Limits are nanoseconds.
        """
        flow = self.flow
        moved_in, moved_out = self._moved()
        if moved_in or moved_out:
            self.idle_since_ns = now_ns
        if flow.turns:
            flow.look(now_ns)
        age_ns = now_ns - flow.accepted_ns
        if not flow.connected_ns:
            # Without a backend it pauses before the next attempt.
            if self.backend is not None and now_ns - self.idle_since_ns > connect_ns:
                self.fail(Outcome.CONNECT_TIMEOUT)
        elif now_ns - self.idle_since_ns > idle_ns:
            # A client that has asked and got no answer in all that time was failed by the backend.
            hung = flow.waiting and flow.first_client_ns
            self.abort(Outcome.BACKEND_TIMEOUT if hung else Outcome.IDLE_TIMEOUT)
        elif total_ns and age_ns > total_ns:
            self.abort(Outcome.TOTAL_TIMEOUT)

    def _moved(self) -> tuple[int, int]:
        flow = self.flow
        flow.bytes_in, flow.bytes_out = self.carried()
        moved = (flow.bytes_in - self.moved_in, flow.bytes_out - self.moved_out)
        self.moved_in, self.moved_out = flow.bytes_in, flow.bytes_out
        if moved != (0, 0):
            flow.ledger.moved(flow.slot, *moved)
        return moved

    def fail(self, outcome: Outcome) -> None:
        """The backend failed and has taken no byte: another attempt, or the end."""
        if not self.on_fail(self, outcome):
            self.abort(outcome)

    def leave(self, outcome: Outcome, now_ns: int) -> None:
        """Give up this backend and keep the client with all it has sent; then `connect` again."""
        client, backend = self.client, self.backend
        self.flow.end(outcome, now_ns)
        if backend is not None:
            if backend.unsent is not None:
                # At its end, after what may be left of a greeting.
                start = len(backend.unsent) - client.bytes_read
                self.pending = bytes(backend.unsent[start:])
                backend.unsent = None
            self.poller.close_socket(backend.sock)
            backend.peer = None
            self.backend = None
        if self.flow.connected_ns:
            # Watched again once there is somebody to read for: that tells all there is anew.
            self.poller.unwatch(client.fd)
        client.peer = None
        client.eof = client.hung_up = client.readable = False
        self.idle_since_ns = now_ns
        client.news = True
        client.bytes_read = self.moved_in = self.moved_out = 0

    def _lead(self) -> bool:
        """Send what goes first: a greeting, and what the last backend did not take. False if that
        ended the flow."""
        client, backend = self.client, self.backend
        assert backend is not None
        greeting = self.arrival.greeting if self.arrival is not None else b""
        if self.pending:
            client.bytes_read = len(self.pending)
            client.news = False
            self.flow.asked(monotonic_ns())
        if lead := greeting + self.pending:
            backend.unsent, self.pending = memoryview(lead), b""
            backend._flush()
        return backend.peer is not None

    def abort(self, outcome: Outcome, spare: End | None = None) -> None:
        """End the flow now, resetting both ends, but for `spare`, which is beyond it already."""
        for end in (self.client, self.backend):
            if end is not None and end is not spare:
                reset(end.sock)
        self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """Close both sockets and the account."""
        self._moved()
        for end in (self.client, self.backend):
            if end is not None:
                self.poller.close_socket(end.sock)
                end.peer = None
                end.unsent = None
        self.flow.end(outcome, monotonic_ns())
        self.on_end(self)
        # The circle through the ends is cut here, so that no collector has to find it.
        for end in (self.client, self.backend):
            if end is not None:
                del end.relay


class End:
    """One socket of a flow. `unsent` is what was read for it and not yet accepted by it."""

    __slots__ = (
        "bytes_read",
        "eof",
        "fd",
        "hung_up",
        "news",
        "peer",
        "readable",
        "recv_into",
        "relay",
        "send",
        "sock",
        "unsent",
    )

    def __init__(self, relay: Relay, sock: socket.socket) -> None:
        self.relay = relay
        self.sock = sock
        self.fd = sock.fileno()
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.peer: End | None = None
        self.unsent: memoryview | None = None
        self.readable = False
        self.hung_up = False
        self.eof = False
        self.news = True
        self.bytes_read = 0

    def on_event(self, events: int) -> None:
        """The poller's call: read and pass on until there is no more, or the peer takes no more."""
        peer = self.peer
        if (events != _CALM or self.unsent is not None) and not self._attend(events):
            return
        if peer is None or self.eof:
            return
        if peer.unsent is not None:
            self.readable = True
            return
        recv_into, send = self.recv_into, peer.send
        rounds = 0
        while True:
            try:
                count = recv_into(_buffer)
            except BlockingIOError:
                return
            except OSError:
                self._broken()
                return
            if not count:
                self._ended()
                return
            if self.news:
                self._spoke()
            self.bytes_read += count
            try:
                sent = send(_short[count] if count < _SHORT else _buffer[:count])
            except BlockingIOError:
                sent = 0
            except OSError:
                if self.bytes_read == count:
                    peer.unsent = memoryview(bytes(_buffer[:count]))
                peer._broken()
                return
            if sent < count:
                peer.unsent = memoryview(bytes(_buffer[sent:count]))
                self.readable = True
                return
            if count < READ_BYTES and not self.hung_up:
                # A short read emptied the socket; the next byte will be an edge (epoll(7)).
                return
            rounds += 1
            if rounds == _ROUNDS:
                self.readable = True
                self.relay.poller.call_again(self.pump)
                return

    def pump(self) -> None:
        """As if the poller had found bytes to read."""
        self.readable = False
        self.on_event(_CALM)

    def _attend(self, events: int) -> bool:
        """All but plain reading. False where there is nothing to read or nobody to read for."""
        peer = self.peer
        if peer is None:
            return False
        if events & _OVER:
            self.hung_up = True
        if events & ERROR and (self.eof or self.unsent is not None or peer.unsent is not None):
            # Otherwise the next read tells; here there may never be one.
            self._broken()
            return False
        if self.unsent is not None and events & WRITE and not self._flush():
            return False
        return bool(events & _READABLE)

    def _spoke(self) -> None:
        """Its next byte is news again only where turns are, once the peer has spoken."""
        relay, peer = self.relay, self.peer
        assert peer is not None
        self.news = False
        if relay.flow.turns:
            peer.news = True
        if self is relay.backend:
            relay.flow.answered(monotonic_ns())
        else:
            relay.flow.asked(monotonic_ns())

    def _flush(self) -> bool:
        """Send what is left. False if that ended the flow or something is still left."""
        assert self.unsent is not None
        try:
            sent = self.send(self.unsent)
        except BlockingIOError:
            return False
        except OSError:
            self._broken()
            return False
        if sent < len(self.unsent):
            self.unsent = self.unsent[sent:]
            return False
        self.unsent = None
        peer = self.peer
        assert peer is not None
        if peer.readable:
            peer.pump()
        return self.peer is not None

    def _ended(self) -> None:
        """This end has sent all it will, and its peer has taken it."""
        self.eof = True
        self.readable = False
        relay, peer = self.relay, self.peer
        assert peer is not None
        if self is relay.backend and not self.bytes_read and not peer.eof:
            # Without a word to a client that still had its side open. That may go on sending, but
            # it was no answer.
            relay.outcome = Outcome.BACKEND_SILENT
        peer._half_close()

    def _half_close(self) -> bool:
        """Tell this end that its peer is through. False if that ended the flow."""
        relay = self.relay
        if self.eof and self.unsent is None and self.peer is not None and self.peer.unsent is None:
            relay.end(relay.outcome)
            return False
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken()
            return False
        return True

    def _broken(self) -> None:
        relay = self.relay
        if relay.flow.outcome is not None:
            return
        if self is not relay.backend:
            relay.abort(Outcome.CLIENT_RESET, spare=self)
        elif not self.bytes_read and relay.client.bytes_read <= len(self.unsent or b""):
            relay.fail(Outcome.BACKEND_RESET)
        else:
            relay.abort(Outcome.BACKEND_RESET, spare=self)


def reset(sock: socket.socket) -> None:
    """Make the close of a socket a reset."""
    # A socket may be past telling its peer anything.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
