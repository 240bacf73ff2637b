"""The scoreboard against a real Apache: idle, with connections held, and files that are none."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.experiments.scoreboard import Scoreboard, ScoreboardError
from testbed.processes import Children, free_ports

MODULES = Path("/usr/lib/apache2/modules")
APACHE = shutil.which("apache2", path="/usr/sbin:/usr/bin")

CONFIG = """
ServerRoot {folder}
ServerName test
PidFile {folder}/pid
Listen 127.0.0.1:{port}
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
ErrorLog {folder}/errors
{user}
ServerLimit 8
MaxRequestWorkers 8
StartServers 8
MinSpareServers 8
MaxSpareServers 8
KeepAlive Off
ScoreBoardFile {folder}/board
DocumentRoot {folder}
"""


@pytest.fixture
def apache(tmp_path) -> Iterator[tuple[int, int]]:
    """Its process id and port."""
    if APACHE is None or not (MODULES / "mod_mpm_prefork.so").exists():
        pytest.skip("needs Debian's apache2")
    port = free_ports(1)[0]
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    config = tmp_path / "apache.conf"
    config.write_text(CONFIG.format(folder=tmp_path, port=port, modules=MODULES, user=user))
    with Children() as children:
        argv = [APACHE, "-DFOREGROUND", "-f", str(config)]
        child = children.start("apache", argv)
        until_s = time.monotonic() + 60
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert child.running(), child.output()
            assert time.monotonic() < until_s
            time.sleep(0.02)
        yield child.pid, port


def file_of(pid: int) -> Path:
    """The file that this Apache maps: the library has a name of its own for it."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    (found,) = {line.split()[-1] for line in lines if "/ShM." in line}
    return Path(found)


def until(board: Scoreboard, busy: int) -> None:
    until_s = time.monotonic() + 60
    while board.busy() != busy:
        assert time.monotonic() < until_s, board.statuses()
        time.sleep(0.01)


def test_a_held_connection_is_a_busy_worker(apache):
    pid, port = apache
    board = Scoreboard(file_of(pid))
    assert board.workers == 8
    until(board, 0)
    with ExitStack() as held:
        for _ in range(3):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            # It is accepted with its first bytes; the rest of the request never comes.
            sock.sendall(b"GET / HTTP/1.0\r\n")
        until(board, 3)
        assert sum(board.statuses().values()) == 8
    until(board, 0)
    board.close()
    board.close()


def test_what_is_no_scoreboard_is_refused(tmp_path):
    path = tmp_path / "board"
    for content in (b"", b"x" * 40, b"\1\0\0\0" * 5000):
        path.write_bytes(content)
        with pytest.raises(ScoreboardError, match="board"):
            Scoreboard(path)
