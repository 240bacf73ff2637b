"""The daemon under a service manager: sockets that it was passed, and what it tells.

The manager is a few lines of Python that do what systemd does before the exec; the real one is in
tests/deploy.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo
from lbd_client import ask, settled
from lbd_waiting import until

from config.address import Address
from lbd.activation import Activation, ActivationError

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]

# Descriptors in argv, up to "--"; then the command.
PASS = """
import os, sys
end = sys.argv.index("--")
fds = [int(fd) for fd in sys.argv[1:end]]
high = [os.dup2(fd, 900 + i) for i, fd in enumerate(fds)]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.execv(sys.argv[end + 1], sys.argv[end + 1:])
"""


def passing(*sockets: socket.socket) -> dict[str, object]:
    """Settings that start the daemon with these sockets, which stay open here as in systemd."""
    fds = [sock.fileno() for sock in sockets]
    return {"wrap": (sys.executable, "-c", PASS, *map(str, fds), "--"), "pass_fds": fds}


@pytest.fixture
def open_tcp() -> Iterator[Callable[..., list[socket.socket]]]:
    """So many listening sockets on one loopback address, as ReusePort= and ListenStream= do."""
    with ExitStack() as stack:

        def start(count: int = 1) -> list[socket.socket]:
            port, sockets = 0, []
            for _ in range(count):
                sock = stack.enter_context(socket.socket())
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(("127.0.0.1", port))
                sock.listen(128)
                port = sock.getsockname()[1]
                sockets.append(sock)
            return sockets

        yield start


def address_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()
    return Address.parse(f"{host}:{port}")


# -- who gets what


def test_fewer_sockets_than_workers_are_shared_in_turn(
    open_tcp: Callable[..., list[socket.socket]],
) -> None:
    a, b = open_tcp(2)
    activation = Activation([a, b])
    assert activation.take(address_of(a), 3) == [a, b, a]
    assert activation.holds(address_of(a))
    activation.finish()


def test_an_address_for_which_nothing_was_passed_gets_nothing(
    open_tcp: Callable[..., list[socket.socket]],
) -> None:
    (a,) = open_tcp()
    activation = Activation([a])
    other = Address.parse("127.0.0.1:1")
    assert activation.take(other, 1) == []
    assert not activation.holds(other)
    with pytest.raises(ActivationError, match=str(a.getsockname()[1])):
        activation.finish()


def test_more_sockets_than_workers_are_refused(
    open_tcp: Callable[..., list[socket.socket]],
) -> None:
    pair = open_tcp(2)
    with pytest.raises(ActivationError, match="2 sockets were passed for"):
        Activation(pair).take(address_of(pair[0]), 1)


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ActivationError, match="does not listen"):
            Activation([sock]).take(address_of(sock), 1)


# -- the daemon


def test_passed_sockets_serve_and_what_waited_before_the_start_is_served_too(
    daemon: Start, backend: Make, open_tcp: Callable[..., list[socket.socket]]
) -> None:
    pair = open_tcp(2)
    service = ld.service([backend(echo).address], listen=str(address_of(pair[0])))
    with ThreadPoolExecutor(8) as clients:
        early = clients.map(lambda _: ask(service, b"early"), range(8))
        one = daemon(service, workers=2, **passing(*pair))
        assert list(early) == [b"early"] * 8
    for _ in range(8):
        assert ask(service, b"late") == b"late"
    settled(service["name"], 16)
    assert one.stop() == 0


def test_a_restart_refuses_nobody(
    daemon: Start, backend: Make, open_tcp: Callable[..., list[socket.socket]]
) -> None:
    (sock,) = open_tcp()
    service = ld.service([backend(echo).address], listen=str(address_of(sock)))
    assert daemon(service, workers=2, **passing(sock)).stop() == 0
    with ThreadPoolExecutor(1) as clients:
        between = clients.submit(ask, service, b"x")
        daemon(service, workers=2, **passing(sock))
        assert between.result() == b"x"
    settled(service["name"], 1)


def test_a_passed_unix_socket_is_left_where_it_is(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        service = ld.service([backend(echo).address], listen=f"unix:{path}")
        one = daemon(service, workers=2, **passing(sock))
        assert ask(service, b"x") == b"x"
        assert one.stop() == 0
    assert path.exists()


def test_a_socket_that_no_service_wants_stops_the_start(
    launch: Start, backend: Make, open_tcp: Callable[..., list[socket.socket]]
) -> None:
    (sock,) = open_tcp()
    one = launch(ld.service([backend(echo).address]), **passing(sock))
    assert one.wait() == 1
    assert f"no service listens on what was passed: ('127.0.0.1', {sock.getsockname()[1]})" in (
        one.log
    )


def test_the_manager_hears_ready_then_the_state_then_stopping(
    launch: Start, backend: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        service = ld.service([backend(echo).address])
        one = launch(service, workers=2)

        def hear() -> str:
            heard.append(manager.recv(4096).decode())
            return heard[-1]

        until(lambda: hear() == "READY=1", "ready")
        one.start()
        until(lambda: "WATCHDOG=1" in hear(), "the watchdog fed")
        assert heard[-1] == "STATUS=2 of 2 workers, 0 flows in progress\nWATCHDOG=1"
        for pid in one.workers():
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environ
            assert b"WATCHDOG_USEC" not in environ
        os.kill(one.pid, signal.SIGTERM)
        until(lambda: hear() == "STOPPING=1", "stopping")
        assert one.wait() == 0
