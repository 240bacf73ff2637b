"""What holds of UDP services: addresses of their own, backends that take datagrams, answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.address import Address
from config.load import ConfigError, load
from config.schema import Config

BOTH = """\
services:
  - name: tcp
    listen: {tcp}
    backends:
      - {{name: a, address: {behind_tcp}}}
  - name: udp
    listen: {udp}
    backends:
      - {{name: a, address: {behind_udp}}}
"""
USUAL = {
    "tcp": "127.0.0.1:53",
    "udp": "udp:127.0.0.1:53",
    "behind_tcp": "127.0.0.1:1053",
    "behind_udp": "udp:127.0.0.1:1053",
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "lbd.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["udp:127.0.0.1:53", "udp:[::1]:53", "udp:dns.example:53"])
def test_a_udp_address_is_read_as_it_is_written(text: str) -> None:
    address = Address.parse(text)
    assert address.kind == "udp"
    assert str(address) == text
    assert address != Address.parse(text.removeprefix("udp:"))


def test_tcp_and_udp_have_ports_of_their_own(tmp_path: Path) -> None:
    config = load(write(tmp_path, BOTH.format(**USUAL)))
    assert [service.listen.kind for service in config.services] == ["tcp", "udp"]
    crossed = {**USUAL, "udp": "udp:127.0.0.1:54", "behind_udp": "udp:127.0.0.1:53"}
    load(write(tmp_path, BOTH.format(**crossed)))


@pytest.mark.parametrize(
    ("changes", "key", "what"),
    [
        (
            {"behind_udp": "udp:127.0.0.1:53"},
            "9: services[1].backends[0].address",
            "an address where no service listens (a loop: services[1].listen)",
        ),
        (
            {"behind_udp": "127.0.0.1:1053"},
            "9: services[1].backends[0].address",
            "udp:host:port, for the service listens on udp:127.0.0.1:53",
        ),
        (
            {"behind_udp": "unix:/run/a"},
            "9: services[1].backends[0].address",
            "udp:host:port, for the service listens on udp:127.0.0.1:53",
        ),
        (
            {"behind_tcp": "udp:127.0.0.1:1053"},
            "5: services[0].backends[0].address",
            "no udp:host:port, for the service listens on 127.0.0.1:53",
        ),
        (
            {"tcp": "udp:127.0.0.1:53", "behind_tcp": "udp:127.0.0.1:1053"},
            "7: services[1].listen",
            "a unique listen address (services[0].listen is the same)",
        ),
    ],
    ids=["loop", "to a connection", "to a stream socket", "from a connection", "twice"],
)
def test_what_no_datagram_can_do_is_refused(
    tmp_path: Path, changes: dict[str, str], key: str, what: str
) -> None:
    with pytest.raises(ConfigError) as found:
        load(write(tmp_path, BOTH.format(**{**USUAL, **changes})))
    message = str(found.value)
    assert f"lbd.yaml:{key}: found " in message
    assert message.endswith(f"expected {what}")


def test_answers_are_counted_of_datagrams_only(tmp_path: Path) -> None:
    text = BOTH.format(**USUAL)
    assert load(write(tmp_path, text + "    responses: 2\n")).services[1].responses == 2
    wrong = text.replace("  - name: tcp\n", "  - name: tcp\n    responses: 1\n")
    with pytest.raises(ConfigError, match="found 1, expected null, for the service does not"):
        load(write(tmp_path, wrong))


def test_datagrams_are_checked_at_a_port_of_their_own(tmp_path: Path) -> None:
    text = BOTH.format(**USUAL)
    ported = load(write(tmp_path, text + "    health: {check: {port: 80}}\n")).services[1]
    assert ported.health.check is not None
    with pytest.raises(ConfigError, match=r"services\[1\].health: found .* expected a check with"):
        load(write(tmp_path, text + "    health: {check: {}}\n"))


def test_datagrams_do_not_wait_in_a_queue(tmp_path: Path) -> None:
    text = BOTH.format(**USUAL)
    config = load(write(tmp_path, text))
    assert Config.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match=r"services\[1\].queue: found .* expected none, for"):
        load(write(tmp_path, text + "    queue: {size: 5}\n"))
