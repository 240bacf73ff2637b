"""What a client costs that asks for 1 GB and reads nothing: memory, and how far the server gets.

Lives here: the measurement, and the server that streams. One worker.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

from shm import layout as lo
from shm.worker import scalars_view
from testbed.bench.single import Single, single, within

STREAM_BYTES = 1 << 30
READ_BACK_BYTES = 64 << 20
STALL_S = 0.5
DEADLINE_S = 60.0
BLOCK = bytes(range(256)) * 4096
ASK, WARM = b"!", b"?"


def run() -> dict[str, Any]:
    """`server_stalled_after_bytes` is None if the server was still sending at the deadline."""
    server = Server()
    try:
        with single(server.port, workers=1) as daemon:
            return _measure(server, daemon)
    finally:
        server.close()


class Server:
    """Answers connections one after another, in a thread: ASK with the stream, WARM with itself."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="streaming server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call it when the daemon has ended: its connections end the stream."""
        # A blocked accept does not notice a close, but it does this.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock, contextlib.suppress(ConnectionError):
                asked = sock.recv(1)
                if asked == ASK:
                    while self.sent_bytes < STREAM_BYTES:
                        self.sent_bytes += sock.send(BLOCK[self.sent_bytes % len(BLOCK) :])
                else:
                    sock.sendall(asked)


def _measure(server: Server, daemon: Single) -> dict[str, Any]:
    pids = [daemon.region.owner_pid, int(scalars_view(daemon.region, 0)[lo.SCALAR["pid"]])]
    # What the first flow of a process loads is not the slow reader's.
    with socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_S) as sock:
        sock.sendall(WARM)
        sock.recv(1)
    before = sum(map(_rss_bytes, pids))
    with socket.create_connection(("127.0.0.1", daemon.port), DEADLINE_S) as sock:
        sock.sendall(ASK)
        stalled = _stalled(server)
        stalled_bytes = server.sent_bytes
        growth_bytes = sum(map(_rss_bytes, pids)) - before
        return {
            "asked_bytes": STREAM_BYTES,
            "server_stalled_after_bytes": stalled_bytes if stalled else None,
            "rss_growth_bytes": growth_bytes,
            "read_back_bytes": READ_BACK_BYTES,
            "read_back_ok": _read_back(sock),
        }


def _stalled(server: Server) -> bool:
    """Wait until nothing was sent for STALL_S, some having been sent before."""
    last_bytes, since_s = 0, time.monotonic()

    def still() -> bool:
        nonlocal last_bytes, since_s
        now_s = time.monotonic()
        if server.sent_bytes != last_bytes:
            last_bytes, since_s = server.sent_bytes, now_s
        return last_bytes > 0 and now_s - since_s > STALL_S

    return within(DEADLINE_S, still) and last_bytes < STREAM_BYTES


def _read_back(sock: socket.socket) -> bool:
    """Whether what the client reads at last is the stream from its start."""
    for _ in range(READ_BACK_BYTES // len(BLOCK)):
        part = bytearray()
        while len(part) < len(BLOCK):
            got = sock.recv(len(BLOCK) - len(part))
            if not got:
                return False
            part += got
        if part != BLOCK:
            return False
    return True


def _rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory: it ended")
