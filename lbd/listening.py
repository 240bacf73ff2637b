"""The supervisor's listening sockets, by address: kept from one configuration to the next.

Lives here: which are opened, shared, closed. Never here: how one is bound (`lbd.sockets`).
A socket of the kernel's accept queue is never closed while its address is configured: closing it
would reset what waits there. When workers get fewer, some of them accept from several sockets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from config.address import Address
from config.schema import Config
from lbd.activation import Activation
from lbd.sockets import ListenError, listen, listen_beside
from lbd.udp.sockets import bind, bind_beside

BIND_PATIENCE_S: Final = 2.0
"""A killed supervisor's workers close their listeners within milliseconds: wait for it."""

Sockets = list[socket.socket]


class Listening:
    """`inherited`: what the process before this one listened on, and how."""

    def __init__(
        self, activation: Activation, inherited: Mapping[Address, Sockets] | None = None
    ) -> None:
        self._activation = activation
        self._open: dict[Address, Sockets] = dict(inherited or {})

    async def prepare(self, config: Config) -> None:
        """Listen on all addresses of `config`, besides those that are open already.

        Raises ListenError, ActivationError, and leaves then all as it was.
        """
        opened: dict[Address, Sockets] = {}
        try:
            for service in config.services:
                address = service.listen
                if address in opened:
                    continue  # of a service that is told apart by the server's name
                present = self._open.get(address, [])
                if not present:
                    passed = self._activation.take(address, config.workers)
                    opened[address] = passed or await _listen(address, config.workers)
                elif address.kind != "unix" and not self._activation.holds(address):
                    missing = config.workers - len(present)
                    beside = bind_beside if address.kind == "udp" else listen_beside
                    opened[address] = beside(address, max(missing, 0))
            self._activation.finish()
        except BaseException:
            for address, sockets in opened.items():
                self._close(address, sockets, last=address not in self._open)
            raise
        for address, sockets in opened.items():
            self._open[address] = [*self._open.get(address, []), *sockets]

    def shares(self, address: Address, workers: int) -> list[Sockets]:
        """What each of `workers` accepts from: every socket is somebody's, nobody has none."""
        sockets = list(dict.fromkeys(self._open[address]))
        if len(sockets) < workers:
            return [[sockets[index % len(sockets)]] for index in range(workers)]
        return [sockets[index::workers] for index in range(workers)]

    def release(self, config: Config | None) -> None:
        """Stop listening where `config` does not; None: everywhere."""
        wanted = {service.listen for service in config.services} if config else set()
        for address in [address for address in self._open if address not in wanted]:
            self._close(address, self._open.pop(address), last=True)

    def by_address(self) -> dict[Address, Sockets]:
        return dict(self._open)

    def _close(self, address: Address, sockets: Iterable[socket.socket], last: bool) -> None:
        for sock in sockets:
            sock.close()
        if last and address.kind == "unix" and not self._activation.holds(address):
            Path(address.path).unlink(missing_ok=True)


async def _listen(address: Address, count: int) -> Sockets:
    loop = asyncio.get_running_loop()
    patience_s = loop.time() + BIND_PATIENCE_S
    while True:
        try:
            return bind(address, count) if address.kind == "udp" else listen(address, count)
        except ListenError as error:
            if not error.busy or loop.time() > patience_s:
                raise
        await asyncio.sleep(0.05)
