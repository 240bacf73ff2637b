"""What holds of UDP services: addresses of their own, sockets that carry datagrams, answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.load import ConfigError, load

BOTH = """\
services:
  - name: tcp
    listen: {tcp}
    backends:
      - {{name: a, address: {behind_tcp}}}
  - name: udp
    protocol: udp
    listen: {udp}
    backends:
      - {{name: a, address: {behind_udp}}}
"""
USUAL = {
    "tcp": "127.0.0.1:53",
    "udp": "127.0.0.1:53",
    "behind_tcp": "127.0.0.1:1053",
    "behind_udp": "127.0.0.1:1053",
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lbd.yaml"
    path.write_text(text)
    return path


def test_tcp_and_udp_have_ports_of_their_own(tmp_path: Path) -> None:
    config = load(write(tmp_path, BOTH.format(**USUAL)))
    assert [service.protocol for service in config.services] == ["tcp", "udp"]
    crossed = {**USUAL, "udp": "127.0.0.1:54", "behind_udp": "127.0.0.1:53"}
    load(write(tmp_path, BOTH.format(**crossed)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"behind_udp": "127.0.0.1:53"},
            'lbd.yaml:10: services[1].backends[0].address: found "127.0.0.1:53", expected an '
            "address where no service listens (a loop: services[1].listen)",
        ),
        (
            {"udp": "unix:/run/a"},
            'lbd.yaml:8: services[1].listen: found "unix:/run/a", expected host:port or [v6]:port, '
            "for the protocol is udp",
        ),
        (
            {"behind_udp": "unix:/run/a"},
            'lbd.yaml:10: services[1].backends[0].address: found "unix:/run/a", expected host:port '
            "or [v6]:port, for the protocol is udp",
        ),
    ],
    ids=["loop", "listens on a stream socket", "sends to a stream socket"],
)
def test_what_no_datagram_can_do_is_refused(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as found:
        load(write(tmp_path, BOTH.format(**{**USUAL, **changes})))
    assert str(found.value).endswith(message)


def test_two_udp_services_on_one_address_are_refused(tmp_path: Path) -> None:
    text = BOTH.format(**USUAL).replace("  - name: tcp\n", "  - name: tcp\n    protocol: udp\n")
    with pytest.raises(ConfigError, match=r"a unique listen address for UDP \(services\[0\]"):
        load(write(tmp_path, text))


def test_answers_are_counted_of_datagrams_only(tmp_path: Path) -> None:
    text = BOTH.format(**USUAL)
    assert load(write(tmp_path, text + "    responses: 2\n")).services[1].responses == 2
    wrong = text.replace("  - name: tcp\n", "  - name: tcp\n    responses: 1\n")
    with pytest.raises(ConfigError, match="found 1, expected null, for the protocol is tcp"):
        load(write(tmp_path, wrong))
