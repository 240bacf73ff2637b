"""The runtime API's place: its socket, opened and taken away.

Lives here: the socket's rights and life. Never here: requests (`lbd.api.application`).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from config.api import Api
from lbd.api.application import application
from lbd.api.peer import group_id
from lbd.api.routes import Daemon
from lbd.http import HttpServer, Refused
from lbd.sockets import ListenError, listen

_UMASK: Final = 0o117  # leaves mode 0660


class ApiServer:
    """Listens from its construction on, serves from `start` on.

    before: the one that it follows, whose socket it takes over where that is at the same path; what
    waits there is not lost. Raises ListenError where the socket cannot be had, or a group does not
    exist; the one before is as it was then.
    """

    def __init__(
        self, daemon: Daemon, config: Api, refused: Refused, before: ApiServer | None = None
    ) -> None:
        self.path = config.listen.path
        try:
            operators = None if config.operators is None else group_id(config.operators)
            group = None if config.group is None else group_id(config.group)
        except OSError as error:
            raise ListenError(config.listen, error) from None
        self._server = HttpServer(application(daemon, operators), refused)
        self._before = before if before is not None and before.path == self.path else None
        self._group_before = os.stat(self.path).st_gid if self._before is not None else -1
        self._sock = self._before.socket() if self._before is not None else _open(config)
        try:
            if group is not None or self._before is not None:
                os.chown(self.path, -1, os.getegid() if group is None else group)
        except OSError as error:
            self.discard()
            raise ListenError(config.listen, error) from None

    def socket(self) -> socket.socket:
        """The same socket for a successor."""
        return self._sock.dup()

    async def start(self) -> None:
        await self._server.start(self._sock)

    def discard(self) -> None:
        """Instead of `start`: leave all as it was before the construction."""
        self._sock.close()
        if self._before is None:
            _remove(self.path)
        else:
            os.chown(self.path, -1, self._group_before)

    async def close(self, successor: ApiServer | None = None) -> None:
        await self._server.close()
        if successor is None or successor.path != self.path:
            _remove(self.path)


def _open(config: Api) -> socket.socket:
    before = os.umask(_UMASK)
    try:
        (sock,) = listen(config.listen, 1)
    finally:
        os.umask(before)
    return sock


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
