"""The socket and the clock: this balancer's queues to the others, theirs into the regions.

Lives here: the I/O, and the order of things. Never here: whether a datagram is believed
(`lbd.peers.known`), what it says (`lbd.wire.peers`).

All of it happens in the supervisor, in one turn every `every_ms`: what has come is heard, then q is
told. To be woken by each datagram would cost several times as much: most of what so little work
costs is to come back to it. What only the agent reads is looked at and published every FIGURES_MS.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.peers import Peers as PeersConfig
from lbd.peers.known import Peer, Refusal
from lbd.peers.members import Members
from lbd.peers.shared import Shared
from lbd.sockets import ListenError, resolve, sockaddr_name, v6only
from lbd.wire.malformed import Malformed
from lbd.wire.peers import MAX_BYTES, Unproven, decode, encode
from shm.region import Region

log = logging.getLogger(__name__)

LEAST_SECRET_BYTES: Final = 16
MOST_SECRET_BYTES: Final = 4096
RECEIVE_BYTES: Final = 1 << 20
"""Asked for, to outlast what else the supervisor does; net.core.rmem_max bounds it."""
BATCH: Final = 512
"""Datagrams that are read in a turn."""
FIGURES_MS: Final = 100
LOOK_UP_S: Final = 10.0
AGAIN_S: Final = 1.0
"""After a fault of ours."""


class SecretError(OSError):
    """The key file cannot be used; the message names it and the reason."""


@dataclass(frozen=True)
class Settings:
    """secret: what `config.key_file` held when it was read."""

    config: PeersConfig
    secret: bytes | None

    @classmethod
    def of(cls, config: PeersConfig) -> Settings:
        """Raises SecretError."""
        if config.key_file is None:
            return cls(config, None)
        try:
            with config.key_file.open("rb") as file:
                secret = file.read(MOST_SECRET_BYTES).strip()
        except OSError as error:
            raise SecretError(f"peers: {config.key_file}: {error.strerror}") from None
        if len(secret) < LEAST_SECRET_BYTES:
            raise SecretError(
                f"peers: {config.key_file}: {len(secret)} bytes, of at least {LEAST_SECRET_BYTES}"
            )
        return cls(config, secret)


Services = Callable[[], Sequence[tuple[Region, str]]]
"""The regions of the services in force, with the names under which others know them."""


class Talk:
    """Bound when it is made; raises ListenError.

    refused_total: datagrams not taken, since the balancer began.
    """

    def __init__(self, settings: Settings, services: Services) -> None:
        self.settings = settings
        self.refused_total: Counter[Refusal] = Counter()
        self._services = services
        self._shared: dict[tuple[Region, str], Shared] = {}
        self._by_key: dict[int, Shared] = {}
        self._peers: dict[tuple[str, int], tuple[Any, Peer]] = {}
        self._sock = _bind(settings.config)
        self._sender = time.time_ns()
        self._sequence = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def peers(self) -> list[Peer]:
        return [peer for _, peer in self._peers.values()]

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._look_up()), loop.create_task(self._tell())]

    def configure(self, settings: Settings) -> None:
        """Go by other settings with the same `listen`, having been started."""
        self.settings = settings
        for task in self._tasks:
            task.cancel()
        self.start()

    async def close(self) -> None:
        """Started or not."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sock.close()

    # -- who

    async def _look_up(self) -> None:
        members = Members(self._sock, self.settings.config.members)
        if not (members.change and self._peers):
            # Names may take their time; who was there before waits for them.
            self._know(members.found())
        while members.change:
            await members.look_up()
            self._know(members.found())
            await asyncio.sleep(LOOK_UP_S)

    def _know(self, members: Sequence[Any]) -> None:
        """These are the others; what is known of those that stay goes on."""
        before = self._peers
        self._peers = {
            sockaddr[:2]: (
                sockaddr,
                before[sockaddr[:2]][1]
                if sockaddr[:2] in before
                else Peer(sockaddr_name(sockaddr)),
            )
            for sockaddr in members
        }
        for at, (_, peer) in before.items():
            if at not in self._peers:
                self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        for one in self._shared.values():
            one.sums.forget(peer.name)

    # -- telling

    async def _tell(self) -> None:
        """At fixed times, not after fixed pauses; what is missed is not made up for."""
        loop = asyncio.get_running_loop()
        every_s = self.settings.config.every_ms * 1e-3
        due_s = loop.time()
        while True:
            try:
                self.turn(time.monotonic_ns())
            except Exception:
                # A fault of ours must leave each with its own view, and not for good.
                log.critical("peers cannot be told", exc_info=True)
                due_s += AGAIN_S
            due_s = max(due_s + every_s, loop.time())
            await asyncio.sleep(due_s - loop.time())

    def turn(self, now_ns: int) -> None:
        """Hear what has come, forget who is silent, tell all."""
        self._follow()
        self._receive(now_ns)
        for peer in self.peers:
            if peer.silent(now_ns, self._forget_ns):
                log.warning("peers: %s is silent; its flows count no more", peer.name)
                self._forget(peer)
        heard = any(peer.up for _, peer in self._peers.values())
        figures = self._sequence % max(1, FIGURES_MS // self.settings.config.every_ms) == 0
        self._sequence += 1
        for one in self._shared.values():
            # If nobody looks again it holds no longer than a balancer's silence would.
            one.show(now_ns + self._forget_ns if heard else 0)
            if figures:
                one.publish(now_ns)
                one.look(now_ns)
            self._tell_of(one, now_ns)

    @property
    def _forget_ns(self) -> int:
        return self.settings.config.forget_ms * 1_000_000

    def _tell_of(self, one: Shared, now_ns: int) -> None:
        told, secret = one.told(now_ns), self.settings.secret
        for data in encode(self._sender, self._sequence, one.key, one.exchanges, told, secret):
            for sockaddr, peer in self._peers.values():
                try:
                    self._sock.sendto(data, sockaddr)
                except OSError:
                    # A full buffer, no way there: the next one tells the same, and newer.
                    peer.dropped_total += 1
                else:
                    peer.sent_total += 1

    def _follow(self) -> None:
        """The regions in force, and the backends in them."""
        services = [one for one in self._services() if one[0].layout.peers]
        if services != list(self._shared):
            self._shared = {one: self._shared.get(one) or Shared(*one) for one in services}
            self._by_key = {one.key: one for one in self._shared.values()}
        for one in self._shared.values():
            one.follow()

    # -- hearing

    def _receive(self, now_ns: int) -> None:
        for _ in range(BATCH):
            try:
                data, sockaddr = self._sock.recvfrom(MAX_BYTES + 1)
            except OSError:
                return  # there are no more
            refused = self.hear(data, sockaddr, now_ns)
            if refused is not None:
                self.refused_total[refused] += 1

    def hear(self, data: bytes, sockaddr: Any, now_ns: int) -> Refusal | None:
        """Why it was not taken, if it was not."""
        _, peer = self._peers.get(sockaddr[:2], (None, None))
        if peer is None:
            return Refusal.STRANGER
        try:
            told = decode(data, self.settings.secret)
        except Unproven:
            return Refusal.UNPROVEN
        except Malformed:
            return Refusal.MALFORMED
        if told.sender == self._sender:
            return Refusal.OWN
        one = self._by_key.get(told.service)
        if one is None or one.exchanges != told.exchanges:
            return Refusal.UNKNOWN
        life, was_up = peer.sender, peer.up
        refused = peer.hear(told, now_ns)
        if refused is not None:
            return refused
        if not was_up:
            log.info("peers: %s is heard", peer.name)
        elif peer.sender != life:
            self._forget(peer)
        one.sums.hear(peer.name, told, now_ns)
        return None


def _bind(config: PeersConfig) -> socket.socket:
    try:
        family, sockaddr = resolve(config.listen)
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            v6only(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            sock.bind(sockaddr)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ListenError(config.listen, error) from None
    return sock
