"""Services told apart by the server's name in the ClientHello: real TLS, terminated behind us."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, Script, echo, read_all
from lbd_client import ask, connect, settled
from lbd_waiting import until

from lbd.edge.router import Router
from lbd.wire import proxy, tlv
from lbd.wire.tlv import Tlv

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, key and certificate."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    made = subprocess.run(
        [*command.split(), "-subj", "/CN=test", "-keyout", "-", "-out", "-"],
        capture_output=True,
        check=True,
    )
    path.write_bytes(made.stdout)
    return path


def tls(certificate: Path, answer: bytes) -> Script:
    """Terminates TLS and answers who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True) as wrapped:
            data = wrapped.recv(100)
            wrapped.sendall(answer + data)
            wrapped.unwrap()

    return serve


def asked(service: dict[str, Any], name: str | None, piece: int = 65536) -> bytes:
    """The answer over TLS; what the client sends goes in pieces, each a segment of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(inward, outward, server_hostname=name)
    with connect(service) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def done(step: Callable[[], Any]) -> Any:
            while True:
                try:
                    result, wants = step(), False
                except ssl.SSLWantReadError:
                    wants = True
                data = outward.read()
                for at in range(0, len(data), piece):
                    sock.sendall(data[at : at + piece])
                if not wants:
                    return result
                received = sock.recv(65536)
                assert received, "closed within the handshake"
                inward.write(received)

        done(session.do_handshake)
        done(lambda: session.write(b"?"))
        return bytes(done(lambda: session.read(100)))


@pytest.fixture
def shared(
    daemon: Start, backend: Make, certificate: Path
) -> Callable[..., tuple[dict[str, Any], ...]]:
    """Two named services and one for the rest, at one address."""

    def start(rest: bool = True, **settings: Any) -> tuple[dict[str, Any], ...]:
        listen = f"127.0.0.1:{ld.free_port()}"
        exact = ld.service(
            [backend(tls(certificate, b"exact")).address],
            listen=listen,
            sni=["www.example.org"],
            **deepcopy(settings),
        )
        wild = ld.service(
            [backend(tls(certificate, b"wild")).address],
            listen=listen,
            sni=["*.example.org", "other.example.com"],
            **deepcopy(settings),
        )
        services = [exact, wild]
        if rest:
            services.append(
                ld.service([backend(echo).address], listen=listen, **deepcopy(settings))
            )
        daemon(*services, workers=2)
        return tuple(services)

    return start


def test_the_servers_name_chooses_the_service(
    shared: Callable[..., tuple[dict[str, Any], ...]],
) -> None:
    exact, wild, rest = shared()
    assert asked(exact, "www.example.org") == b"exact?"
    assert asked(exact, "WWW.EXAMPLE.ORG") == b"exact?"
    assert asked(exact, "api.example.org") == b"wild?"
    assert asked(exact, "a.b.example.org") == b"wild?"
    assert asked(exact, "other.example.com", piece=1) == b"wild?"
    # Neither TLS without a name of ours, nor what is no TLS, finds a named service.
    assert ask(exact, b"plain") == b"plain"
    for service, flows in ((exact, 2), (wild, 3), (rest, 1)):
        assert settled(service["name"], flows)["first_byte_total"] == flows


def test_without_a_service_for_the_rest_strangers_are_refused(
    shared: Callable[..., tuple[dict[str, Any], ...]],
) -> None:
    exact, _ = shared(rest=False)
    for name in ("example.org", "www.example.com", None):
        with pytest.raises(ConnectionResetError):
            asked(exact, name)
    with connect(exact) as sock:
        sock.sendall(b"GET / HTTP/1.1")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert asked(exact, "www.example.org") == b"exact?"

    def counts() -> tuple[int, int]:
        found = ld.scalars(exact["name"])
        return found["sni_unknown_total"], found["hello_malformed_total"]

    until(lambda: counts() == (3, 1), "all four counted")


def test_a_silent_client_of_a_named_service_is_given_up(
    shared: Callable[..., tuple[dict[str, Any], ...]],
) -> None:
    exact, *_ = shared(limits={"preface_ms": 100})
    with connect(exact) as sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    until(lambda: ld.scalars(exact["name"])["preface_timeout_total"] == 1, "given up")


def test_a_full_service_sheds_what_its_address_had_room_for(
    shared: Callable[..., tuple[dict[str, Any], ...]],
) -> None:
    """The queue in the kernel is the address's: who is for another service must not wait in it."""
    exact, wild, _ = shared(max_connections=2)
    context = ssl.create_default_context()
    context.check_hostname = False
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="www.example.org").do_handshake()
    hello = out.read()
    reset = 0
    socks = [connect(exact) for _ in range(6)]
    try:
        for sock in socks:
            sock.sendall(hello)
        for sock in socks:
            try:
                reset += not sock.recv(1)
            except ConnectionResetError:
                reset += 1
        # Each of the two workers has room for one.
        assert 4 <= reset <= 5
        assert ld.scalars(exact["name"])["shed_full_total"] == reset
        assert asked(exact, "api.example.org") == b"wild?"
    finally:
        for sock in socks:
            sock.close()
    settled(wild["name"], 1)


def test_a_backend_is_told_the_name_and_the_protocol(
    daemon: Start, backend: Make, certificate: Path
) -> None:
    """authority and alpn of the PROXY header, read from the hello, which itself passes whole."""
    told: list[tuple[Tlv, ...]] = []
    serve = tls(certificate, b"told")

    def unwrap(sock: socket.socket) -> None:
        data = sock.recv(65536, socket.MSG_PEEK)
        found = proxy.parse(data)
        assert found is not None
        sock.recv(found.size)
        told.append(found.tlvs)
        serve(sock)

    service = ld.service(
        [backend(unwrap).address], proxy_out={"tlvs": ["authority", "alpn", "crc32c"]}
    )
    daemon(service)
    assert asked(service, "www.example.org") == b"told?"
    assert told == [(Tlv(tlv.AUTHORITY, b"www.example.org"),)]


def test_what_is_no_tls_passes_where_the_name_is_only_told(daemon: Start, backend: Make) -> None:
    def drop_header(sock: socket.socket) -> None:
        sock.recv(28)
        sock.sendall(read_all(sock))

    service = ld.service([backend(drop_header).address], proxy_out={"tlvs": ["authority"]})
    daemon(service)
    assert ask(service, b"plain") == b"plain"


def test_an_exact_name_goes_first_then_the_longest_wildcard() -> None:
    routes = [(["*.b.c"], 1), (["*.a.b.c", "b.c"], 2), (["x.a.b.c"], 3), ([], 4)]
    router: Router[int] = Router(routes)
    found = {name: router.find(name) for name in ("x.a.b.c", "y.a.b.c", "a.b.c", "b.c", "c", None)}
    assert found == {"x.a.b.c": 3, "y.a.b.c": 2, "a.b.c": 1, "b.c": 2, "c": 4, None: 4}
    assert Router([(["*.c"], 1)]).find("c") is None
