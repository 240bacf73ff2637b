"""The section peers: what is accepted, what is refused and how, and what a change of it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.changes import needs_new_workers
from config.load import ConfigError, load
from config.schema import Config

FILE = """\
peers: {peers}
services:
  - name: web
    listen: udp:127.0.0.1:53
    backends:
      - {{name: a, address: udp:127.0.0.1:1053}}
"""


def read(tmp_path: Path, peers: str) -> Config:
    path = tmp_path / "lbd.yaml"
    path.write_text(FILE.format(peers=peers))
    return load(path)


def test_all_balancers_may_share_one_file(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '{listen: "10.0.0.1:7946", members: ["10.0.0.1:7946", "lb2:7946"], key_file: secret}',
    ).peers
    assert found is not None
    assert [str(member) for member in found.members] == ["10.0.0.1:7946", "lb2:7946"]
    assert found.key_file == tmp_path / "secret"
    assert (found.every_ms, found.forget_ms) == (20, 200)


def test_none_unless_asked_for(tmp_path: Path) -> None:
    assert read(tmp_path, "null").peers is None


@pytest.mark.parametrize(
    ("peers", "key", "says"),
    [
        ('{listen: "unix:/x", members: ["10.0.0.2:7"]}', "peers.listen", "host:port"),
        ('{listen: "udp:10.0.0.1:7", members: ["10.0.0.2:7"]}', "peers.listen", "it is UDP"),
        (
            '{listen: "127.0.0.1:53", members: ["10.0.0.2:7"]}',
            "peers.listen",
            "a unique listen address",
        ),
        ('{listen: "10.0.0.1:7", members: []}', "peers.members", "at least one"),
        ('{listen: "10.0.0.1:7", members: ["10.0.0.2"]}', "peers.members[0]", "no port"),
        ('{listen: "10.0.0.1:7", members: ["[::1]:7"]}', "peers.members", "one family"),
        ('{listen: "10.0.0.1:7", members: ["a:7", "a:7"]}', "peers.members", "each address once"),
        (
            "{{listen: '10.0.0.1:7', members: [{}]}}".format(
                ", ".join(f"'10.0.1.{n}:7'" for n in range(33))
            ),
            "peers.members",
            "at most 32",
        ),
        (
            '{listen: "10.0.0.1:7", members: ["a:7"], every_ms: 20, forget_ms: 39}',
            "peers.forget_ms",
            "at least twice every_ms, which is 20",
        ),
        (
            '{listen: "10.0.0.1:7", members: ["a:7"], every_ms: 500}',
            "peers.forget_ms",
            "200 (the default), expected at least twice every_ms",
        ),
    ],
)
def test_what_cannot_be_is_told_at_its_place(
    tmp_path: Path, peers: str, key: str, says: str
) -> None:
    with pytest.raises(ConfigError) as found:
        read(tmp_path, peers)
    (problem,) = found.value.problems
    assert problem.key == key
    assert says in problem.text


def test_services_are_told_apart_among_peers_too(tmp_path: Path) -> None:
    path = tmp_path / "lbd.yaml"
    backend = "backends: [{{name: a, address: 127.0.0.1:{}}}]"
    text = """\
services:
  - {name: web, listen: 127.0.0.1:1, %s}
  - {name: other, listen: 127.0.0.1:2, shared_as: %s, %s}
"""
    path.write_text(text % (backend.format(11), "mail", backend.format(12)))
    assert load(path).services[1].shared_as == "mail"
    path.write_text(text % (backend.format(11), "web", backend.format(12)))
    with pytest.raises(ConfigError, match="a unique name among peers") as found:
        load(path)
    assert [problem.key for problem in found.value.problems] == ["services[1].shared_as"]


def test_new_workers_are_needed_only_where_peers_come_or_go(tmp_path: Path) -> None:
    none = read(tmp_path, "null")
    some = read(tmp_path, '{listen: "10.0.0.1:7", members: ["10.0.0.2:7"]}')
    others = read(tmp_path, '{listen: "10.0.0.1:8", members: ["10.0.0.3:7"], every_ms: 50}')
    assert needs_new_workers(none, some)
    assert needs_new_workers(some, none)
    assert not needs_new_workers(some, others)
