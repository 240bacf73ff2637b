"""Real servers with scripted behaviour, each connection in a thread of its own.

Lives here: accepting, and the scripts that more than one test wants. Never here: assertions.
A script gets the accepted socket and owns it until it returns; then the socket is closed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from lbd_waiting import DEADLINE_S

Script = Callable[[socket.socket], None]

RESET = struct.pack("ii", 1, 0)


def reset(sock: socket.socket) -> None:
    """Close with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def read_all(sock: socket.socket) -> bytes:
    """Everything up to the end of file."""
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes, fewer only at the end of file."""
    parts = []
    while count and (part := sock.recv(min(count, 65536))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


class Backend:
    """Listens at once; `address` is in the configuration's form. `close` ends all its threads."""

    def __init__(
        self, script: Script, family: int = socket.AF_INET, bind: Any = None, backlog: int = 512
    ) -> None:
        self._script = script
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self.errors: list[Exception] = []
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        if family != socket.AF_UNIX:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        default = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}
        self.listener.bind(bind if bind is not None else default[socket.AddressFamily(family)])
        self.listener.listen(backlog)
        self.sockaddr = self.listener.getsockname()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def address(self) -> str:
        if isinstance(self.sockaddr, str):
            return f"unix:{self.sockaddr}"
        host, port = self.sockaddr[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._script(sock)
        except OSError as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def close(self) -> None:
        # Shutting down wakes the threads that are blocked in a call on the socket.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(DEADLINE_S)
        self.listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)


# -- scripts


def echo(sock: socket.socket) -> None:
    """Every byte comes back, and so does the end of file."""
    while data := sock.recv(65536):
        sock.sendall(data)


def close_at_once(sock: socket.socket) -> None:
    """Accept, and hang up without a word."""


def hold(sock: socket.socket) -> None:
    """Read and say nothing until the client is through."""
    read_all(sock)
