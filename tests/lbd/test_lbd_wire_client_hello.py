"""The server's name out of ClientHellos: those of a real TLS client, cut in any way, and broken."""

from __future__ import annotations

import itertools
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.wire.client_hello import MAX_BYTES, ClientHello, parse
from lbd.wire.malformed import Malformed, TooLong

NAMES = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,10}){1,3}", fullmatch=True
)


def hello(name: str | None, alpn: list[str] | None = None) -> bytes:
    """What OpenSSL sends first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


REAL = hello("www.example.org", ["h2", "http/1.1"])


@given(NAMES, st.binary(max_size=20))
def test_a_real_client_names_its_server(name: str, rest: bytes) -> None:
    found = parse(hello(name) + rest)
    assert found == ClientHello(name, ())


def test_protocols_are_read_in_the_clients_order() -> None:
    assert parse(REAL) == ClientHello("www.example.org", (b"h2", b"http/1.1"))


def test_a_client_may_name_no_server() -> None:
    assert parse(hello(None)) == ClientHello(None, ())


@given(st.integers(0, len(REAL) - 1))
def test_cut_short_it_is_incomplete(cut: int) -> None:
    assert parse(REAL[:cut]) is None


def records(handshake: bytes, cuts: list[int]) -> bytes:
    """The same handshake, spread over records."""
    edges = [0, *sorted(cuts), len(handshake)]
    parts = [handshake[a:b] for a, b in itertools.pairwise(edges) if a < b]
    return b"".join(b"\x16\x03\x01" + len(p).to_bytes(2, "big") + p for p in parts)


@given(st.lists(st.integers(0, len(REAL) - 5), max_size=12))
def test_records_may_cut_the_handshake_anywhere(cuts: list[int]) -> None:
    assert parse(records(REAL[5:], cuts)) == parse(REAL)


@given(st.data())
def test_a_changed_byte_is_malformed_or_still_a_hello(data: st.DataObject) -> None:
    broken = bytearray(REAL)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(REAL) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(broken))
    except Malformed:
        return
    assert found is None or found.server_name is None or found.server_name.isascii()


@given(st.binary(max_size=200))
def test_noise_is_malformed_or_incomplete(noise: bytes) -> None:
    for data in (noise, b"\x16\x03\x01" + noise, REAL[:9] + noise):
        try:
            found = parse(data)
        except Malformed:
            continue
        assert found is None or isinstance(found, ClientHello)


def with_extensions(extensions: bytes) -> bytes:
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += len(extensions).to_bytes(2, "big") + extensions
    return records(b"\1" + len(body).to_bytes(3, "big") + body, [])


def extension(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def server_names(*names: bytes, kind: int = 0) -> bytes:
    listed = b"".join(bytes([kind]) + len(n).to_bytes(2, "big") + n for n in names)
    return extension(0, len(listed).to_bytes(2, "big") + listed)


def test_names_are_compared_in_lower_case_and_without_the_final_dot() -> None:
    found = parse(with_extensions(server_names(b"WWW.Example.ORG.")))
    assert found == ClientHello("www.example.org", ())


@pytest.mark.parametrize(
    "extensions",
    [
        server_names(),
        server_names(b""),
        server_names(b"a", b"b"),
        server_names(b"a", kind=1),
        server_names(b"a b"),
        server_names(b"a..b"),
        server_names(b"a\0.org"),
        server_names(b"\xff.org"),
        server_names((b"a" * 63 + b".") * 4),
        server_names(b"a") * 2,
        server_names(b"a")[:-1],
        extension(0, b""),
        extension(16, b"\0\0"),
        extension(16, b"\0\1\0"),
        extension(16, b"\0\2\2h"),
        extension(16, b"\0\1\0x"),
        extension(7, b"") * 2,
        b"\0",
    ],
)
def test_wrong_extensions_are_refused(extensions: bytes) -> None:
    with pytest.raises(Malformed):
        parse(with_extensions(extensions))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x17\x03\x03\x00\x05hello",
        b"\x16\x04",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x01\x02",
    ],
    ids=["http", "SSLv2", "data", "version 4", "empty", "too long", "ServerHello"],
)
def test_what_is_no_client_hello_is_told_at_once(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


def test_a_hello_has_a_bound() -> None:
    with pytest.raises(TooLong):
        parse(b"\x16\x03\x01\x00\x04\x01\x00\x40\x01")
    dribble = (b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\x00" * MAX_BYTES)[:MAX_BYTES]
    handshake = b"\1\0\x3f\xff" + bytes(8000)
    slow = records(handshake, list(range(1, 3000)))[:MAX_BYTES]
    assert parse(slow[:-1]) is None
    with pytest.raises(TooLong):
        parse(slow)
    with pytest.raises(Malformed):
        parse(dribble)
