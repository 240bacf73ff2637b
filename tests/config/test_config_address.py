"""An address has one canonical text, and everything else is refused with a reason."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.address import MAX_UNIX_BYTES, Address

ports = st.integers(1, 65535)
literals = st.one_of(
    st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]")
)
names = st.from_regex(
    r"[a-zA-Z]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?(\.[a-z]{2,5}){0,3}\.?", fullmatch=True
)
unix_paths = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20).map(
    lambda name: f"unix:/run/{name}s"
)
addresses = st.one_of(
    st.builds("{}:{}".format, st.one_of(literals, names), ports),
    unix_paths,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", Address("tcp", "127.0.0.1", 80)),
        ("0.0.0.0:65535", Address("tcp", "0.0.0.0", 65535)),
        ("[::1]:80", Address("tcp", "::1", 80)),
        ("[2001:DB8:0:0:0:0:0:1]:1", Address("tcp", "2001:db8::1", 1)),
        ("[fe80::1%eth0]:80", Address("tcp", "fe80::1%eth0", 80)),
        ("localhost:80", Address("tcp", "localhost", 80)),
        ("Backend_1.Example.ORG.:80", Address("tcp", "backend_1.example.org.", 80)),
        ("1st.example:80", Address("tcp", "1st.example", 80)),
        ("unix:/run/lbd.sock", Address("unix", path="/run/lbd.sock")),
        ("unix:/run/a:80", Address("unix", path="/run/a:80")),
        ("unix:/" + "x" * (MAX_UNIX_BYTES - 1), Address("unix", path="/" + "x" * 106)),
    ],
)
def test_each_form_gives_its_parts(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no port"),
        ("localhost", "no port"),
        (":80", "no host"),
        ("a:", "port"),
        ("a:0", "port"),
        ("a:65536", "port"),
        ("a:-1", "port"),
        ("a:+1", "port"),
        ("a:080", "port"),
        ("a:8_0", "port"),
        ("a: 80", "port"),
        ("a:٨٠", "port"),
        ("a:80\n", "port"),
        ("::1:80", "brackets"),
        ("[::1]", "brackets"),
        ("[]:80", "IPv6"),
        ("[127.0.0.1]:80", "IPv6"),
        ("[::1%]:80", "IPv6"),
        ("[::1%a b]:80", "network interface"),
        ("[::12345]:80", "IPv6"),
        ("256.0.0.1:80", "IPv4"),
        ("127.1:80", "IPv4"),
        ("01.2.3.4:80", "IPv4"),
        ("0x7f.0x1:80", "IPv4"),
        ("1:30", "IPv4"),
        ("a b:80", "host name"),
        (" a:80", "host name"),
        ("-a:80", "host name"),
        ("a..b:80", "host name"),
        (".:80", "host name"),
        ("bücher.example:80", "host name"),
        ("http://a:80", "brackets"),
        ("x" * 64 + ":80", "host name"),
        (".".join(["x" * 60] * 5) + ":80", "host name"),
        ("unix:", "absolute"),
        ("unix:run/x", "absolute"),
        ("unix:@abstract", "absolute"),
        ("unix:/", "names a file"),
        ("unix:/run/", "names a file"),
        ("unix:/a\0b", "unprintable"),
        ("unix:/a\nb", "unprintable"),
        ("unix:/\ud800", "unprintable"),
        ("unix:/" + "x" * MAX_UNIX_BYTES, "at most 107 bytes, this one 108"),
        ("unix:/" + "é" * 54, "at most 107 bytes, this one 109"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Address.parse(text)


@given(addresses)
@example("[fe80::1%eth0]:80")
def test_the_text_of_an_address_parses_to_the_same_address(text: str) -> None:
    address = Address.parse(text)
    assert Address.parse(str(address)) == address


@given(st.ip_addresses(v=6), ports)
def test_spellings_of_one_ipv6_address_are_equal(ip: ipaddress.IPv6Address, port: int) -> None:
    spellings = {f"[{ip}]:{port}", f"[{ip.exploded}]:{port}", f"[{ip.exploded.upper()}]:{port}"}
    assert len({Address.parse(text) for text in spellings}) == 1


@given(st.text(max_size=30) | st.text("0123456789abcdef:.[]%/unix", max_size=30))
def test_any_text_is_an_address_that_round_trips_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    assert Address.parse(str(address)) == address
    assert bool(address.path) == (address.kind == "unix") == (address.port == 0)
