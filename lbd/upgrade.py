"""From one program to the next without a gap: the process stays, what it runs is exchanged.

Lives here: what survives an exec(2), and how. Never here: when that happens (`lbd.supervisor`).

The new program inherits the listening sockets and the workers of the old one. Those serve on until
its own workers do, then they are drained. The process keeps its pid, so that no service manager has
to be told. What cannot work is found out before: the new program checks the configuration first.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final

from config.address import Address
from lbd.fleet import Worker
from lbd.listening import Listening, Sockets

VARIABLE: Final = "LBD_UPGRADE"
_SIGNALS: Final = frozenset(
    (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
)
"""Held back over the exec: until the new program handles them, they would end it."""


class Inherited:
    """What the program before this one left; nothing where it was started afresh.

    workers: by pid, the descriptor of its line, which tells it that somebody is there.
    """

    def __init__(
        self, listening: dict[Address, Sockets] | None = None, workers: dict[int, int] | None = None
    ) -> None:
        self.listening = listening or {}
        self._workers = workers or {}
        self._none_left = asyncio.Event()
        self._watched = False

    @property
    def lines(self) -> dict[int, int]:
        """Of the former workers that still run."""
        return dict(self._workers)

    def end(self, graceful: bool) -> None:
        """Let the former workers finish, or end them; and reap them."""
        for pid in self._workers:
            os.kill(pid, signal.SIGQUIT if graceful else signal.SIGTERM)
        if not self._watched:
            self._watched = True
            loop = asyncio.get_running_loop()
            for pid in self._workers:
                pidfd = os.pidfd_open(pid)
                loop.add_reader(pidfd, self._reap, pid, pidfd)
        self._tell()

    async def gone(self) -> None:
        """Until none is left, after `end`."""
        await self._none_left.wait()

    def _reap(self, pid: int, pidfd: int) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        os.close(self._workers.pop(pid))
        os.waitpid(pid, 0)
        self._tell()

    def _tell(self) -> None:
        if not self._workers:
            self._none_left.set()


def inherited(environ: MutableMapping[str, str]) -> Inherited:
    """As the former program has told, and no longer there: it is not for children."""
    told = environ.pop(VARIABLE, "")
    if not told:
        return Inherited()
    state = json.loads(told)
    listening = {
        Address.parse(text): [_socket(fd) for fd in fds] for text, fds in state["listening"].items()
    }
    workers = {int(pid): int(fd) for pid, fd in state["workers"].items()}
    for fd in workers.values():
        os.set_inheritable(fd, False)
    return Inherited(listening, workers)


def _socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock


async def problem(path: str, patience_s: float) -> str | None:
    """What the program that is installed now says against starting; None where nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lbd",
        "--config",
        path,
        "--check",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), patience_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"its check of the configuration took longer than {patience_s:g} s"
    if process.returncode:
        return said.decode(errors="replace").strip() or f"its check failed ({process.returncode})"
    return None


def lines_of(workers: Iterable[Worker]) -> dict[int, int]:
    """By pid, the descriptor of each worker's line; without those whose line has ended."""
    lines = {worker.pid: worker.channel.fileno() for worker in workers}
    return {pid: fd for pid, fd in lines.items() if fd >= 0}


def become_new(listening: Listening, lines: Mapping[int, int], environ: Mapping[str, str]) -> str:
    """Run the new program in this process, with `environ` besides its own and the workers of
    `lines`, by pid the descriptor of each one's; returns only to say why that cannot be."""
    sockets = {
        str(address): list(dict.fromkeys(sock.fileno() for sock in sockets))
        for address, sockets in listening.by_address().items()
    }
    kept = [*(fd for fds in sockets.values() for fd in fds), *lines.values()]
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for fd in kept:
        os.set_inheritable(fd, True)
    state = json.dumps({"listening": sockets, "workers": lines})
    try:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "lbd", *sys.argv[1:]],
            {**os.environ, **environ, VARIABLE: state},
        )
    except OSError as error:
        for fd in kept:
            os.set_inheritable(fd, False)
        unblock_signals()
        return str(error)


def unblock_signals() -> None:
    """The other half of `become_new`, once the new program handles them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
