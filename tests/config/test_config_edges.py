"""The sections of a service's edges: what they take, what they refuse, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.load import ConfigError, load
from config.network import Network

WEB = """\
services:
  - name: web
    listen: 127.0.0.1:8080
    backends:
      - {name: a, address: 127.0.0.1:9001}
"""
SECOND = """\
  - name: api
    listen: 127.0.0.1:8080
    backends:
      - {name: a, address: 127.0.0.1:9002}
"""


def said(tmp_path: Path, text: str) -> list[str]:
    """The problems of the file, a line each."""
    path = tmp_path / "lbd.yaml"
    path.write_text(text)
    try:
        load(path)
    except ConfigError as error:
        return str(error).replace(f"{path}:", "").splitlines()
    return []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("proxy_in: {trust: []}", "proxy_in.trust: found an empty list, expected at least one"),
        ("proxy_in: {trust: [10.0.0.1/8]}", "proxy_in.trust[0]: .*10.0.0.0/8 is meant"),
        ("proxy_in: {trust: [x]}", 'proxy_in.trust[0]: found "x", expected a network such as'),
        ("proxy_in: {trust: [unix], others: plan}", "others: .*did you mean plain?"),
        ("proxy_out: {version: 3}", "proxy_out.version: found 3, expected one of 1, 2"),
        ("proxy_out: {version: 1, tlvs: [crc32c]}", "tlvs: .*version 1 has no vectors"),
        ("proxy_out: {tlvs: [authorities]}", "tlvs[0]: .*did you mean authority?"),
        ('sni: ["*.*.org"]', "sni[0]: .*a host name in lower case, or "),
        ("sni: [WWW.example.org]", "sni[0]: .*a host name in lower case"),
        ("hash_bound: 1.0", "hash_bound: found 1.0, expected a number, more than 1"),
        ("stick: {expiry_s: 0}", "stick.expiry_s: found 0, expected a number, more than 0"),
        ("limits: {per_source: {window_s: 2}}", "per_source: .*connections or new in it, or both"),
        ("limits: {overload: drop}", "overload: .*expected one of wait, shed"),
        ("source: {address: 0.0.0.0}", "source.address: .*an IPv4 or IPv6 address of this machine"),
        ("source: {interface: a/b}", "source.interface: .*the name of a network interface"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(
    tmp_path: Path, line: str, expected: str
) -> None:
    (problem,) = said(tmp_path, WEB + f"    {line}\n")
    place, _, words = expected.partition(": ")
    assert problem.startswith("6: services[0].")
    assert f"{place}: " in problem
    for part in words.split(".*"):
        assert part in problem


@pytest.mark.parametrize(
    "line",
    [
        "proxy_in: {trust: [unix]}",
        "proxy_out: {version: 2}",
        "sni: [www.example.org]",
        "stick: {sources: 100}",
        "limits: {overload: shed}",
        "limits: {per_source: {new: 1}}",
    ],
)
def test_datagrams_have_no_connections_to_stand_before(tmp_path: Path, line: str) -> None:
    text = WEB.replace(": 127", ": udp:127")
    assert said(tmp_path, text) == []
    (problem,) = said(tmp_path, text + f"    {line}\n")
    assert problem.startswith(f"6: services[0].{line.partition(':')[0]}: ")
    assert "for the service listens on udp:host:port" in problem


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("{name: b, address: 127.0.0.1:1, dns: {}}", "null, for the address is not a host name"),
        ("{name: b, address: unix:/b, dns: {}}", "null, for the address is not a host name"),
        ("{name: b, address: web.example:1, dns: {kind: mx}}", "expected one of address, srv"),
        (
            "{name: bbbbbbbbbbbbbbbbbbbbbbbbbbbbb, address: web.example:1, dns: {}}",
            "a backend's name of at most 28 characters",
        ),
    ],
)
def test_only_a_host_name_is_looked_up_again(tmp_path: Path, backend: str, expected: str) -> None:
    (problem,) = said(tmp_path, WEB + f"      - {backend}\n")
    assert "services[0].backends[1].dns" in problem
    assert expected in problem


def test_every_address_of_a_name_needs_a_slot(tmp_path: Path) -> None:
    more = "      - {name: b, address: web.example:1, dns: {max: 8}}\n"
    assert said(tmp_path, WEB + more + "    slots: 9\n") == []
    (problem,) = said(tmp_path, WEB + more + "    slots: 8\n")
    assert "services[0].slots: found 8, expected at least 9" in problem


def test_a_nameserver_is_an_address(tmp_path: Path) -> None:
    (problem,) = said(tmp_path, WEB + "resolver: {nameservers: [ns.example:53]}\n")
    assert "resolver.nameservers[0]: " in problem
    assert "an IP address and a port" in problem


def test_services_may_share_an_address_where_names_tell_them_apart(tmp_path: Path) -> None:
    named = WEB + "    sni: [www.example.org]\n"
    assert said(tmp_path, named + SECOND) == []
    assert said(tmp_path, named + SECOND + '    sni: ["*.example.org"]\n') == []
    assert said(tmp_path, WEB + SECOND + "    sni: [api.example.org]\n") == []


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("source: {address: SOURCE}", "source.address"),
        ("health: {check: {source: SOURCE}}", "health.check.source"),
        ("health: {feedback: {port: 9, source: SOURCE}}", "health.feedback.source"),
    ],
)
def test_a_source_is_of_the_family_of_the_backends(tmp_path: Path, line: str, key: str) -> None:
    more = "      - {name: b, address: BACKEND}\n"
    for source, backend, fits in (
        ('"::1"', '"[::1]:9"', False),  # the first backend's family is another
        ('"::1"', "127.0.0.1:9", False),
        ("127.0.0.1", "127.0.0.1:9", True),
        ("127.0.0.1", "unix:/run/b", True),
        ("127.0.0.1", "web.example:9", True),
        ("127.0.0.1", '"[::1]:9"', False),
    ):
        found = said(
            tmp_path,
            WEB + more.replace("BACKEND", backend) + f"    {line.replace('SOURCE', source)}\n",
        )
        assert len(found) == (0 if fits else 1)
        assert all(f"services[0].{key}: found " in problem for problem in found)
        assert all("an address of the family of services[0].backends[" in one for one in found)


def test_services_at_one_address_without_names_clash(tmp_path: Path) -> None:
    (problem,) = said(tmp_path, WEB + SECOND)
    assert "services[1].listen" in problem
    third = SECOND.replace("api", "third").replace("9002", "9003")
    (problem,) = said(tmp_path, WEB + SECOND + "    sni: [a.org]\n" + third)
    assert "services[2].listen" in problem


def test_one_name_at_one_address_stands_for_one_service(tmp_path: Path) -> None:
    name = "    sni: [www.example.org]\n"
    (problem,) = said(tmp_path, WEB + name + SECOND + name)
    assert "services[1].sni[0]" in problem
    assert "services[0].sni[0] is the same" in problem


def test_what_is_read_before_the_service_is_known_is_common(tmp_path: Path) -> None:
    text = WEB + "    sni: [a.org]\n    proxy_in: {trust: [unix]}\n" + SECOND
    (problem,) = said(tmp_path, text)
    assert "services[1].proxy_in" in problem
    assert "the same as at services[0]" in problem


def test_metrics_and_a_named_service_clash(tmp_path: Path) -> None:
    (problem,) = said(tmp_path, "metrics: 127.0.0.1:8080\n" + WEB + "    sni: [a.org]\n")
    assert "metrics" in problem


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.builds("{}/{}".format, st.ip_addresses(), st.integers(0, 128)),
        st.text(max_size=20),
        st.just("unix"),
    )
)
def test_a_network_is_read_as_it_is_written_or_refused(text: str) -> None:
    try:
        network = Network.parse(text)
    except ValueError:
        return
    assert Network.parse(str(network)) == network
