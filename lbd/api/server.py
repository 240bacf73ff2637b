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
from lbd.http import HttpServer
from lbd.sockets import ListenError, listen

_UMASK: Final = 0o117  # leaves mode 0660


class ApiServer:
    """Raises ListenError where the socket cannot be had, or a group does not exist."""

    def __init__(self, daemon: Daemon, config: Api) -> None:
        self._config = config
        try:
            operators = None if config.operators is None else group_id(config.operators)
        except OSError as error:
            raise ListenError(config.listen, error) from None
        self._server = HttpServer(application(daemon, operators))

    async def start(self) -> None:
        sock = _open(self._config)
        await self._server.start(sock)

    async def close(self) -> None:
        await self._server.close()
        _remove(self._config.listen.path)


def _open(config: Api) -> socket.socket:
    before = os.umask(_UMASK)
    try:
        (sock,) = listen(config.listen, 1)
    finally:
        os.umask(before)
    if config.group is not None:
        try:
            os.chown(config.listen.path, -1, group_id(config.group))
        except OSError as error:
            sock.close()
            _remove(config.listen.path)
            raise ListenError(config.listen, error) from None
    return sock


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
