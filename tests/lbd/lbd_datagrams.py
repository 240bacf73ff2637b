"""Real UDP servers with scripted behaviour, and clients of a UDP service.

Lives here: sockets of both far ends. Never here: assertions.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import lbd_daemon as ld

from config.address import Address

Answers = Callable[[bytes, Any], list[tuple[bytes, Any]]]
"""What to send, and to whom, on a datagram and where it came from."""

PATIENCE_S = 60.0


def echo(data: bytes, peer: Any) -> list[tuple[bytes, Any]]:
    return [(data, peer)]


def silence(data: bytes, peer: Any) -> list[tuple[bytes, Any]]:
    return []


class DatagramServer:
    """Answers as `script` says until closed. `seen` is everything it got, in order."""

    def __init__(self, script: Answers, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._script = script
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._sock.bind((host, 0))
        self.port = int(self._sock.getsockname()[1])
        self.address = f"udp:[{host}]:{self.port}" if ":" in host else f"udp:{host}:{self.port}"
        self.seen: list[tuple[bytes, Any]] = []
        self.sent: list[tuple[bytes, Any]] = []
        self._ending = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, peer = self._sock.recvfrom(65536)
            if self._ending:
                return
            self.seen.append((data, peer))
            for answer in self._script(data, peer):
                self.sent.append(answer)
                with contextlib.suppress(OSError):
                    self._sock.sendto(*answer)

    def close(self) -> None:
        """Its port is unreachable afterwards."""
        if self._ending:
            return
        self._ending = True
        with socket.socket(self._sock.family, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._sock.getsockname())
        self._thread.join(PATIENCE_S)
        self._sock.close()


def udp_service(backends: list[str], **settings: Any) -> dict[str, Any]:
    """A UDP service's section, on a free port unless `settings` say otherwise."""
    listen = f"udp:127.0.0.1:{ld.free_port()}"
    return ld.service(backends, **{"listen": listen, **settings})


def client(service: dict[str, Any], host: str = "") -> socket.socket:
    """A connected socket: what comes from any other address than it sent to, it does not get."""
    address = Address.parse(service["listen"])
    host = host or address.host
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_S)
    sock.connect((host, address.port))
    return sock


def ask(service: dict[str, Any], data: bytes = b"ping") -> bytes:
    """A new client's question, and the answer."""
    with client(service) as sock:
        sock.send(data)
        return sock.recv(65536)
