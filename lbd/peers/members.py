"""Who the other balancers are: their addresses, names among them looked up again and again.

Lives here: names to addresses, and which of them is this balancer's own. Never here: datagrams.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from typing import Any

from config.address import Address, is_literal
from config.peers import MAX_PEERS

log = logging.getLogger(__name__)


class Members:
    """Of a socket that is bound. A name without an answer keeps the addresses it had."""

    def __init__(self, sock: socket.socket, members: Sequence[Address]) -> None:
        self._sock = sock
        self._names = [member for member in members if not is_literal(member.host)]
        self._found: dict[Address, list[Any]] = {}
        self._complaint = ""
        for member in members:
            if is_literal(member.host):
                found = socket.getaddrinfo(member.host, member.port, type=socket.SOCK_DGRAM)
                self._found[member] = [sockaddr for *_, sockaddr in found]

    @property
    def change(self) -> bool:
        """Whether there are names among them, which may stand for others later."""
        return bool(self._names)

    def found(self) -> list[Any]:
        """Sockaddrs of all but this balancer itself, at most MAX_PEERS."""
        found = {at: None for some in self._found.values() for at in some if not self._own(at)}
        return sorted(found)[:MAX_PEERS]

    async def look_up(self) -> None:
        """Ask for the names."""
        answers = await asyncio.gather(*map(self._ask, self._names))
        missing = [str(name) for name, good in zip(self._names, answers, strict=True) if not good]
        complaint = f"no address for {', '.join(missing)}" if missing else ""
        if sum(map(len, self._found.values())) > MAX_PEERS + 1:
            complaint += f"; more members than {MAX_PEERS}, of which no more count"
        if complaint and complaint != self._complaint:
            log.warning("peers: %s", complaint.removeprefix("; "))
        self._complaint = complaint

    async def _ask(self, name: Address) -> bool:
        """Whether there is an answer."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                name.host, name.port, family=self._sock.family, type=socket.SOCK_DGRAM
            )
        except OSError:
            return False
        self._found[name] = [sockaddr for *_, sockaddr in found]
        return True

    def _own(self, sockaddr: Any) -> bool:
        """Whether the socket listens there, be it because it does on all addresses."""
        bound = self._sock.getsockname()
        if bound[1] != sockaddr[1]:
            return False
        if not ipaddress.ip_address(bound[0].partition("%")[0]).is_unspecified:
            return bool(bound[0] == sockaddr[0])
        with socket.socket(self._sock.family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((sockaddr[0], 0, *sockaddr[2:]))
            except OSError:
                return False
        return True
