"""PROXY headers: what is built is read back, cut short is incomplete, and nothing else gets in."""

from __future__ import annotations

import ipaddress
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.wire import proxy, proxy_v1, proxy_v2, tlv
from lbd.wire.crc32c import crc32c
from lbd.wire.endpoint import Endpoint
from lbd.wire.malformed import Malformed, TooLong
from lbd.wire.proxied import Proxied
from lbd.wire.tlv import Tlv

PORTS = st.integers(0, 65535)
V4 = st.builds(lambda a, p: Endpoint(socket.AF_INET, str(a), p), st.ip_addresses(v=4), PORTS)
V6 = st.builds(
    # The kernel's spelling: Python's differs from it for IPv4-mapped addresses.
    lambda a, p: Endpoint(socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, a.packed), p),
    st.ip_addresses(v=6),
    PORTS,
)
UNIX = st.builds(
    lambda path: Endpoint(socket.AF_UNIX, os.fsdecode(path), 0),
    st.binary(max_size=108).map(lambda path: path.partition(b"\0")[0]),
)
PAIRS = st.one_of(st.tuples(V4, V4), st.tuples(V6, V6), st.tuples(UNIX, UNIX))
# What the parser gives no meaning to and hands on as it is.
TYPES = st.sampled_from((tlv.ALPN, tlv.AUTHORITY, tlv.NETNS, 0xE0, 0xEF, 0xFF))
TLVS = st.lists(st.builds(Tlv, TYPES, st.binary(max_size=300)), max_size=5)
REST = st.binary(max_size=50)


@given(st.one_of(st.tuples(V4, V4), st.tuples(V6, V6)), REST)
def test_version_1_is_read_as_it_was_written(pair: tuple[Endpoint, Endpoint], rest: bytes) -> None:
    header = proxy_v1.build(*pair)
    assert len(header) <= proxy_v1.MAX_LINE_BYTES
    assert proxy.parse(header + rest) == Proxied(*pair, (), len(header))


@given(PAIRS, TLVS, st.booleans(), REST)
def test_version_2_is_read_as_it_was_written(
    pair: tuple[Endpoint, Endpoint], tlvs: list[Tlv], checksum: bool, rest: bytes
) -> None:
    header = proxy_v2.build(*pair, tlvs, checksum)
    assert proxy.parse(header + rest) == Proxied(*pair, tuple(tlvs), len(header))


HEADERS = st.one_of(
    st.builds(lambda pair: proxy_v1.build(*pair), st.one_of(st.tuples(V4, V4), st.tuples(V6, V6))),
    st.builds(lambda pair, t, c: proxy_v2.build(*pair, t, c), PAIRS, TLVS, st.booleans()),
)


@given(HEADERS, st.data())
def test_a_header_cut_short_is_incomplete_wherever_it_is_cut(
    header: bytes, data: st.DataObject
) -> None:
    assert proxy.parse(header[: data.draw(st.integers(0, len(header) - 1))]) is None


@given(PAIRS, TLVS, st.data())
def test_a_checksum_finds_every_changed_byte(
    pair: tuple[Endpoint, Endpoint], tlvs: list[Tlv], data: st.DataObject
) -> None:
    """From the addresses on; before them stands what makes it a header of some length at all.

    But for lengths of vectors: a longer one may take the checksum for a part of itself.
    """
    header = bytearray(proxy_v2.build(*pair, tlvs, checksum=True))
    lengths = set()
    start = len(header) - 7
    for vector in reversed(tlvs):
        start -= 3 + len(vector.value)
        lengths |= {start + 1, start + 2}
    anywhere = st.integers(proxy_v2.HEAD_BYTES, len(header) - 8)
    at = data.draw(anywhere.filter(lambda at: at not in lengths))
    header[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Malformed):
        proxy.parse(bytes(header))


PREFIXES = st.sampled_from((b"", proxy_v1.SIGNATURE, b"PROXY TCP4 ", proxy_v2.SIGNATURE))
SHORT_V2 = st.builds(
    lambda head, body: proxy_v2.SIGNATURE + bytes(head) + len(body).to_bytes(2, "big") + body,
    st.tuples(st.sampled_from((0x20, 0x21)), st.sampled_from((0, 0x11, 0x12, 0x21, 0x31))),
    st.binary(max_size=260),
)


@given(st.one_of(st.builds(lambda a, b: a + b, PREFIXES, st.binary(max_size=300)), SHORT_V2))
def test_whatever_comes_the_parser_says_malformed_or_a_valid_header(data: bytes) -> None:
    try:
        found = proxy.parse(data)
    except Malformed:
        return
    if found is None:
        return
    assert 0 < found.size <= len(data)
    for end in (found.source, found.destination):
        if end is not None and end.family != socket.AF_UNIX:
            ipaddress.ip_address(end.host)
            assert 0 <= end.port <= 65535


@given(st.binary(max_size=400), st.integers(0, 400))
def test_more_bytes_never_make_malformed_right(data: bytes, cut: int) -> None:
    data = proxy_v2.SIGNATURE + data
    try:
        proxy.parse(data[:cut])
    except Malformed:
        with pytest.raises(Malformed):
            proxy.parse(data)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 \xff 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY \r\n",
        b"PROXY " + b"x" * 101,
        b"proxy tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\0",
    ],
)
def test_a_wrong_line_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        proxy.parse(line)


def test_unknown_may_say_anything_and_means_the_connection_itself() -> None:
    line = b"PROXY UNKNOWN ffff::1 whatever 65535\r\n"
    assert proxy.parse(line + b"x") == Proxied(None, None, (), len(line))


def version_2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return proxy_v2.SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + body


ADDRESSES = bytes(12)


@pytest.mark.parametrize(
    "header",
    [
        version_2(0x11, 0x11, ADDRESSES),
        version_2(0x22, 0x11, ADDRESSES),
        version_2(0x21, 0x41, ADDRESSES),
        version_2(0x21, 0x13, ADDRESSES),
        version_2(0x21, 0x10, ADDRESSES),
        version_2(0x21, 0x21, ADDRESSES),
        version_2(0x21, 0x11, ADDRESSES[:-1]),
        version_2(0x21, 0x11, ADDRESSES + b"\x01\x00"),
        version_2(0x21, 0x11, ADDRESSES + b"\x01\x00\x05abcd"),
        version_2(0x21, 0x11, ADDRESSES + b"\x03\x00\x02ab"),
        version_2(0x21, 0x11, ADDRESSES + b"\x03\x00\x04abcd"),
        version_2(0x21, 0x11, ADDRESSES + b"\x05\x00\x81" + bytes(129)),
        version_2(0x21, 0x11, ADDRESSES + b"\x20\x00\x04abcd"),
        version_2(0x21, 0x11, ADDRESSES + b"\x20\x00\x08abcde\x21\x00\x01"),
    ],
    ids=[
        "version 1 in binary",
        "command 2",
        "family 4",
        "transport 3",
        "no transport",
        "IPv6 in 12 bytes",
        "11 bytes of IPv4",
        "a vector's head cut",
        "a vector's value cut",
        "a checksum of 2 bytes",
        "a wrong checksum",
        "an identity of 129 bytes",
        "SSL of 4 bytes",
        "a vector within SSL cut",
    ],
)
def test_a_wrong_binary_header_is_refused(header: bytes) -> None:
    with pytest.raises(Malformed):
        proxy.parse(header)


def test_an_oversized_header_is_refused_at_its_16th_byte() -> None:
    header = version_2(0x21, 0x11, b"", length=proxy.MAX_HEADER_BYTES)
    assert proxy.parse(header[:-1]) is None
    with pytest.raises(TooLong):
        proxy.parse(header)


def test_local_says_nothing_whatever_stands_in_it() -> None:
    header = version_2(0x20, 0xFF, b"\xff" * 7)
    assert proxy.parse(header) == Proxied(None, None, (), len(header))


def test_paddings_are_left_out_and_covered_by_the_checksum() -> None:
    ends = Endpoint(socket.AF_INET, "1.2.3.4", 1), Endpoint(socket.AF_INET, "5.6.7.8", 2)
    header = proxy_v2.build(*ends, [Tlv(tlv.NOOP, b"xx"), Tlv(tlv.ALPN, b"h2")], checksum=True)
    found = proxy.parse(header)
    assert found is not None
    assert found.tlvs == (Tlv(tlv.ALPN, b"h2"),)


def test_mixed_families_meet_in_ipv6() -> None:
    v4, v6 = Endpoint(socket.AF_INET, "1.2.3.4", 1), Endpoint(socket.AF_INET6, "::5", 2)
    mapped = Endpoint(socket.AF_INET6, "::ffff:1.2.3.4", 1)
    for build in (proxy_v1.build, proxy_v2.build):
        found = proxy.parse(build(v4, v6))
        assert found is not None
        assert (found.source, found.destination) == (mapped, v6)


def test_a_unix_socket_beside_an_internet_address_leaves_both_unsaid() -> None:
    v4, unix = Endpoint(socket.AF_INET, "1.2.3.4", 1), Endpoint(socket.AF_UNIX, "/s", 0)
    for build in (proxy_v1.build, proxy_v2.build):
        found = proxy.parse(build(v4, unix))
        assert found is not None
        assert (found.source, found.destination) == (None, None)


def test_a_header_that_would_be_too_long_is_not_built() -> None:
    end = Endpoint(socket.AF_INET, "1.2.3.4", 1)
    with pytest.raises(ValueError, match="more than 16384"):
        proxy_v2.build(end, end, [Tlv(0xE0, bytes(proxy.MAX_HEADER_BYTES))])


def test_the_checksum_is_crc32c() -> None:
    """RFC 3720, B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
