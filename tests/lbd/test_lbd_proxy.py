"""PROXY headers on real sockets, in and out: scenario 10 of a balancer's trials, and the way on."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo, read_all, reset
from lbd_client import ask, connect, settled
from lbd_waiting import until

from lbd.wire import proxy, proxy_v1, proxy_v2, tlv
from lbd.wire.endpoint import Endpoint
from lbd.wire.proxied import Proxied
from lbd.wire.tlv import Tlv

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]
pytestmark = pytest.mark.scenario

V4 = (Endpoint(socket.AF_INET, "192.0.2.7", 5555), Endpoint(socket.AF_INET, "192.0.2.1", 443))
V6 = (Endpoint(socket.AF_INET6, "2001:db8::7", 5), Endpoint(socket.AF_INET6, "2001:db8::1", 4))
LOOPBACK = {"trust": ["127.0.0.0/8", "::1"]}


def sent(service: dict[str, Any], *parts: bytes) -> bytes:
    """What comes back for parts that the kernel sends one by one."""
    with connect(service) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def refused(service: dict[str, Any], data: bytes) -> bool:
    """Whether the connection is reset, and nothing comes back."""
    try:
        # A reset that is quick enough comes while the client still connects.
        with connect(service) as sock:
            sock.sendall(data)
            return sock.recv(1) == b"never"
    except ConnectionResetError:
        return True


def counted(service: dict[str, Any], counter: str) -> int:
    return ld.scalars(service["name"])[counter]


# -- in


@pytest.mark.parametrize("pair", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("build", [proxy_v1.build, proxy_v2.build], ids=["v1", "v2"])
def test_a_header_is_taken_off_and_the_rest_relayed(
    daemon: Start, backend: Make, build: Any, pair: tuple[Endpoint, Endpoint]
) -> None:
    service = ld.service([backend(echo).address], proxy_in=LOOPBACK)
    daemon(service)
    header = build(*pair)
    assert sent(service, header + b"ping") == b"ping"
    assert sent(service, header) == b""
    assert sent(service, *(bytes((byte,)) for byte in header), b"pi", b"ng") == b"ping"
    assert sent(service, header[:20], header[20:] + b"p", b"ing") == b"ping"
    assert settled(service["name"], 4)["bytes_in_total"] == 12


def test_a_long_header_is_taken_in_fragments(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], proxy_in=LOOPBACK)
    daemon(service)
    room = proxy.MAX_HEADER_BYTES - len(proxy_v2.build(*V4)) - 3
    header = proxy_v2.build(*V4, [Tlv(0xE0, bytes(room))])
    assert len(header) == proxy.MAX_HEADER_BYTES
    pieces = [header[at : at + 1000] for at in range(0, len(header), 1000)]
    assert sent(service, *pieces, b"ping") == b"ping"


BAD = {
    "no header": (b"GET / HTTP/1.1\r\n\r\n", "proxy_malformed_total"),
    "garbage line": (b"PROXY TCP4 x y 1 2\r\n", "proxy_malformed_total"),
    "endless line": (b"PROXY UNKNOWN " + b"x" * 200, "proxy_malformed_total"),
    "cut vector": (
        proxy_v2.SIGNATURE + b"\x21\x11\x00\x0e" + bytes(12) + b"\xe0\x00",
        "proxy_malformed_total",
    ),
    "wrong checksum": (
        proxy_v2.build(*V4, checksum=True)[:-1] + b"\0",
        "proxy_malformed_total",
    ),
    "oversized": (proxy_v2.SIGNATURE + b"\x21\x11\xff\xff", "proxy_oversized_total"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_header_is_refused_and_no_backend_sees_it(
    daemon: Start, backend: Make, kind: str
) -> None:
    data, counter = BAD[kind]
    one = backend(echo)
    service = ld.service([one.address], proxy_in=LOOPBACK)
    daemon(service)
    assert refused(service, data)
    until(lambda: counted(service, counter) == 1, counter)
    assert ask(service, proxy_v1.build(*V4) + b"ping") == b"ping"
    assert one.accepted == 1
    assert settled(service["name"], 1)["completed_total"] == 1


@pytest.mark.parametrize("others", ["refuse", "plain"])
def test_who_is_not_trusted_is_refused_or_taken_as_plain(
    daemon: Start, backend: Make, others: str
) -> None:
    """Of an untrusted client even a right header is nothing but bytes."""
    service = ld.service(
        [backend(echo).address], proxy_in={"trust": ["192.0.2.0/24"], "others": others}
    )
    daemon(service)
    header = proxy_v1.build(*V4)
    if others == "plain":
        assert ask(service, header) == header
    else:
        assert refused(service, header)
        until(lambda: counted(service, "proxy_untrusted_total") == 1, "a refusal")


def test_a_header_that_never_ends_is_given_up(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], proxy_in=LOOPBACK, limits={"preface_ms": 600})
    daemon(service)
    with connect(service) as silent, connect(service) as half, connect(service) as gone:
        half.sendall(b"PROXY TCP4 192.")
        gone.sendall(b"PROXY TC")
        gone.shutdown(socket.SHUT_WR)
        for sock in (silent, half, gone):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    until(lambda: counted(service, "preface_timeout_total") == 2, "two given up")
    assert counted(service, "preface_closed_total") == 1
    with connect(service) as sock:
        sock.sendall(b"PROX")
        reset(sock)
    until(lambda: counted(service, "preface_closed_total") == 2, "the reset one noticed")


def test_waiting_headers_take_room_and_others_wait(daemon: Start, backend: Make) -> None:
    """An idle flood before the header is bounded as flows are."""
    service = ld.service(
        [backend(echo).address],
        proxy_in=LOOPBACK,
        max_connections=4,
        limits={"preface_ms": 300},
    )
    daemon(service)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(connect(service))
        assert ask(service, proxy_v1.build(*V4) + b"ping") == b"ping"
    assert counted(service, "accept_paused_total") > 0
    until(lambda: counted(service, "preface_timeout_total") > 4, "idle ones given up")


def test_quit_waits_for_headers_on_their_way(daemon: Start, backend: Make) -> None:
    service = ld.service([backend(echo).address], proxy_in=LOOPBACK)
    one = daemon(service)
    with connect(service) as sock, connect(service) as probe:
        sock.sendall(proxy_v1.build(*V4)[:10])
        probe.sendall(proxy_v1.build(*V4) + b"x")
        assert probe.recv(1) == b"x"
        one.send(3)
        probe.shutdown(socket.SHUT_WR)
        assert read_all(probe) == b""
        sock.sendall(proxy_v1.build(*V4)[10:] + b"late")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"late"
    assert one.wait() == 0


# -- out


class Told:
    """A backend that keeps the header of each connection, and echoes what comes after it."""

    def __init__(self) -> None:
        self.headers: list[Proxied] = []

    def __call__(self, sock: socket.socket) -> None:
        data = b""
        while (found := proxy.parse(data)) is None:
            part = sock.recv(7)
            assert part, data
            data += part
        self.headers.append(found)
        sock.sendall(data[found.size :])
        echo(sock)


def test_a_backend_is_told_both_ends_of_the_connection(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    for version in (1, 2):
        for listen in ("127.0.0.1", "::1"):
            told = Told()
            host = f"[{listen}]" if ":" in listen else listen
            port = ld.free_port()
            service = ld.service(
                [backend(told).address],
                listen=f"{host}:{port}",
                proxy_out={"version": version},
            )
            daemon(service)
            with connect(service) as sock:
                ours = sock.getsockname()
                sock.sendall(b"ping")
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b"ping"
            (header,) = told.headers
            family = socket.AF_INET6 if ":" in listen else socket.AF_INET
            assert header.source == Endpoint(family, listen, ours[1])
            assert header.destination == Endpoint(family, listen, port)
            assert settled(service["name"], 1)["bytes_in_total"] == 4


def test_a_backend_that_speaks_first_gets_its_header_first(daemon: Start, backend: Make) -> None:
    """The header does not wait for the client, which waits for the backend."""

    def greet(sock: socket.socket) -> None:
        assert sock.recv(6) == b"PROXY "
        sock.sendall(b"220 hello")

    service = ld.service([backend(greet).address], proxy_out={"version": 1})
    daemon(service)
    with connect(service) as sock:
        assert sock.recv(9) == b"220 hello"


def test_what_came_in_goes_out_with_what_is_added(daemon: Start, backend: Make) -> None:
    told = Told()
    service = ld.service(
        [backend(told).address],
        proxy_in=LOOPBACK,
        proxy_out={"tlvs": ["unique_id", "received", "crc32c"]},
    )
    daemon(service)
    vectors = [Tlv(tlv.AUTHORITY, b"a.example"), Tlv(tlv.UNIQUE_ID, b"theirs"), Tlv(0xE5, b"x")]
    assert ask(service, proxy_v2.build(*V6, vectors) + b"ping") == b"ping"
    assert ask(service, proxy_v1.build(*V4) + b"ping") == b"ping"
    first, second = told.headers
    assert (first.source, first.destination) == V6
    ids = [vector.value for vector in first.tlvs if vector.type == tlv.UNIQUE_ID]
    assert len(ids) == 1
    assert ids != [b"theirs"]
    assert set(first.tlvs) > {vectors[0], vectors[2]}
    assert (second.source, second.destination) == V4
    assert [vector.type for vector in second.tlvs] == [tlv.UNIQUE_ID]


def test_the_balancer_before_us_checking_is_told_as_itself(daemon: Start, backend: Make) -> None:
    """LOCAL: the connection's own ends are the truth."""
    told = Told()
    service = ld.service([backend(told).address], proxy_in=LOOPBACK, proxy_out={})
    daemon(service)
    assert ask(service, proxy_v2.SIGNATURE + b"\x20\0\0\0" + b"x") == b"x"
    (header,) = told.headers
    assert header.source is not None
    assert header.source.host == "127.0.0.1"


def test_half_close_and_bulk_pass_behind_headers(daemon: Start, backend: Make) -> None:
    told = Told()
    service = ld.service([backend(told).address], proxy_in=LOOPBACK, proxy_out={})
    daemon(service)
    body = bytes(range(256)) * 8192
    with connect(service) as sock:
        sock.sendall(proxy_v2.build(*V4))
        sock.setblocking(False)
        got = bytearray()
        left = memoryview(body)
        end_s = time.monotonic() + 60
        while len(got) < len(body):
            assert time.monotonic() < end_s
            with contextlib.suppress(BlockingIOError):
                if left:
                    left = left[sock.send(left) :]
                    if not left:
                        sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(BlockingIOError):
                got += sock.recv(65536)
    assert bytes(got) == body
    assert settled(service["name"], 1)["completed_total"] == 1


def test_unix_clients_are_trusted_and_told_as_such(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    told = Told()
    path = tmp_path / "b"
    service = ld.service(
        [backend(told, family=socket.AF_UNIX, bind=str(path)).address],
        listen=f"unix:{tmp_path / 'l'}",
        proxy_in={"trust": ["unix"]},
        proxy_out={},
    )
    daemon(service)
    assert ask(service, proxy_v2.build(*V4) + b"x") == b"x"
    local = Endpoint(socket.AF_UNIX, "", 0), Endpoint(socket.AF_UNIX, str(tmp_path / "l"), 0)
    assert ask(service, b"PROXY UNKNOWN\r\n" + b"x") == b"x"
    assert [(h.source, h.destination) for h in told.headers] == [V4, local]
