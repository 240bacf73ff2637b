"""A file either loads, or all that is wrong with it is named by file, line and key."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.address import Address
from config.load import MAX_FILE_BYTES, ConfigError, load
from config.schema import Config

MINIMAL = """\
services:
  - name: web
    listen: 127.0.0.1:8080
    backends:
      - {name: a, address: 127.0.0.1:9001}
"""

FULL = """\
workers: 2
metrics: "127.0.0.1:9100"
services:
  - name: web
    listen: "127.0.0.1:8080"
    policy: wcmp
    weights: agent
    fallback: lsq
    ewma: {memory_s: 2.5}
    slots: 8
    timeouts: {connect_ms: 100, idle_s: 20, total_s: 60, drain_s: 0}
    max_connections: 500
    reservoir: {size: 16, probability: 0.25}
    backends:
      - {name: a, address: "127.0.0.1:9001", weight: 2}
      - {name: b, address: "unix:/run/b.sock", max_connections: 3}
    health: {check: {kind: http, port: 81}, passive: null, slow_start: {window_s: 3}}
    retry: {same: 1, others: 0}
    queue: {size: 5}
    load: exchanges
    responses: null
    flow_log: {sample: 0.1, template: "{client}"}
    shared_as: everywhere
    proxy_in: {trust: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32", unix], others: plain}
    proxy_out: {version: 2, tlvs: [authority, crc32c]}
    sni: [www.example.org, "*.example.com"]
    stick: {sources: 100, expiry_s: 60, ipv4_prefix: 24, ipv6_prefix: 48}
    hash_bound: 1.5
    limits:
      overload: shed
      per_source: {connections: 5, new: 10, window_s: 2, sources: 50}
      preface_ms: 500
      first_byte_s: 4
      slow_client: {after_s: 1, bytes_per_s: 10}
    source: {address: 127.0.0.2, interface: lo}
  - name: db
    listen: "[::1]:5432"
    backends:
      - {name: a, address: "db.example:5432", weight: 0.5, dns: {kind: srv, max: 3, every_s: 9}}
agent:
  interval_ms: 100
  mode: frozen
  checkpoint: trained/one
  save: /var/lib/lbd
  save_every_s: 5
  reward: Jain
  base: none
  max_ratio: 4
  expiry_ms: 500
  seed: 7
status_page: true
api: {listen: "unix:/run/lbd.sock", group: lbd}
log: {file: /var/log/lbd.log}
peers:
  listen: "10.0.0.1:7946"
  members: ["10.0.0.1:7946", "10.0.0.2:7946"]
  key_file: /etc/lbd/key
  every_ms: 10
  forget_ms: 100
resolver: {nameservers: ["127.0.0.1:53", "[::1]:53"], timeout_ms: 100, tries: 1}
"""

SNI = '    sni: [www.example.org, "*.example.com"]\n'

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "lbd.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refusal(path: Path) -> str:
    """The message for `path`, with its folder taken out."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_the_smallest_file_loads_with_defaults(write: Write) -> None:
    config = load(write(MINIMAL))
    assert config.services[0].listen == Address("tcp", "127.0.0.1", 8080)
    expected = Config.model_validate(yaml.safe_load(MINIMAL))
    assert config == expected


def test_every_key_reaches_its_place(write: Write) -> None:
    path = write(FULL)
    config = load(path)
    dumped = config.model_dump(mode="json", exclude_unset=True)
    expected = yaml.safe_load(FULL)
    expected["agent"]["checkpoint"] = str(path.parent / "trained/one")
    assert dumped == expected
    keys = {key for section in (config, config.agent) for key in type(section).model_fields}
    assert keys == set(expected) | set(expected["agent"])
    assert set(type(config.services[0]).model_fields) == set(expected["services"][0])


def test_a_dumped_config_loads_as_the_same(write: Write) -> None:
    config = load(write(FULL))
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert load(write(text)) == config


def test_paths_are_relative_to_the_files_folder(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(MINIMAL + "agent: {checkpoint: a/b, save: /c}\n")
    monkeypatch.chdir(path.parent)
    agent = load(Path("lbd.yaml")).agent
    assert (agent.checkpoint, agent.save) == (path.parent / "a/b", Path("/c"))


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + MINIMAL,
        MINIMAL.replace("\n", "\r\n"),
        "%YAML 1.1\n---\n" + MINIMAL + "...\n",
        MINIMAL.replace("name: web", "name: &anchored web"),
        MINIMAL.replace("name: web", "name: !!str 123"),
        MINIMAL + "workers: 0x2\n",
        MINIMAL + "agent: {max_ratio: 1.5e+2, seed: 1_000}\n",
    ],
)
def test_harmless_variations_of_yaml_load(write: Write, text: str) -> None:
    load(write(text))


def edit(old: str, new: str) -> str:
    assert FULL.count(old) == 1, old
    return FULL.replace(old, new)


def service(lines: str) -> str:
    """MINIMAL with more keys in its service; they begin at line 6."""
    return MINIMAL + "".join(f"    {line}\n" for line in lines.splitlines())


def agent(lines: str) -> str:
    """MINIMAL with an agent; its keys begin at line 7."""
    return MINIMAL + "agent:\n" + "".join(f"  {line}\n" for line in lines.splitlines())


WRONG_VALUES = [
    # What YAML reads in another way than it looks.
    (agent("mode: yes"), 7, "agent.mode", "found yes, which YAML reads as true or false"),
    (MINIMAL.replace("web", "on"), 2, "services[0].name", "found on, which YAML reads as"),
    (MINIMAL.replace("web", "12"), 2, "services[0].name", "found 12, expected text, in quotes"),
    (MINIMAL.replace("web", "~"), 2, "services[0].name", "found ~, expected text"),
    (MINIMAL.replace("web", "2024-01-01"), 2, "services[0].name", "2024-01-01, which YAML .* date"),
    (MINIMAL.replace("web", "="), 2, "services[0].name", "found =, with the tag"),
    (MINIMAL.replace("web", "!x y"), 2, "services[0].name", "found y, with the tag !x"),
    (MINIMAL.replace("web", "!!bool y"), 2, "services[0].name", "found y, .* with the tag"),
    (MINIMAL.replace("web", "*w"), 2, "services[0].name", r"found \*w, which is an alias"),
    (MINIMAL.replace("127.0.0.1:8080", "1:30"), 3, "services[0].listen", "1:30, .* base 60"),
    (MINIMAL.replace("127.0.0.1:8080", "1:30.5"), 3, "services[0].listen", "base 60"),
    (agent("seed: 010"), 7, "agent.seed", "found 010, which YAML reads as an octal number"),
    (agent("seed: 0b_"), 7, "agent.seed", "which is no number"),
    (agent("seed: !!int x"), 7, "agent.seed", "which is no number"),
    (agent("max_ratio: !!float x"), 7, "agent.max_ratio", "which is no number"),
    (agent("max_ratio: .nan"), 7, "agent.max_ratio", "found .nan, expected a finite number"),
    (agent("max_ratio: -.INF"), 7, "agent.max_ratio", "found -.INF, expected a finite number"),
    (agent("max_ratio: 1.0e+999"), 7, "agent.max_ratio", "expected a finite number"),
    (agent(f"seed: {10**30}"), 7, "agent.seed", "expected a number within"),
    (agent("seed: " + "9" * 5000), 7, "agent.seed", "found 9{60}[.]{3}, "),
    (agent("seed: 1e3"), 7, "agent.seed", 'found "1e3", expected a whole number'),
    (agent("seed: !!set {a}"), 7, "agent.seed", "found the tag .*set, expected plain data"),
    (agent("seed: !x []"), 7, "agent.seed", "found the tag !x, expected plain data"),
    # Types.
    ("- a\n", 1, "(top level)", "found a list, expected a mapping"),
    ("\nworkers\n", 2, "(top level)", 'found "workers", expected a mapping'),
    ("*a\n", 1, "(top level)", "which is an alias"),
    ("services: 1\n", 1, "services", "found 1, expected a list"),
    ("services: {a: b}\n", 1, "services", "found a mapping, expected a list"),
    ("services:\n", 1, "services", "found nothing, expected a list"),
    ("services: []\n", 1, "services", "found an empty list, expected at least one element"),
    ("services:\n  -\n", 2, "services[0]", "found nothing, expected a mapping"),
    (MINIMAL + "agent:\n", 6, "agent", "found nothing, expected a mapping"),
    (MINIMAL + "agent:\n  - 1\n", 6, "agent", "found a list, expected a mapping"),
    (service("timeouts: 3"), 6, "services[0].timeouts", "found 3, expected a mapping"),
    (MINIMAL + "metrics: 9100\n", 6, "metrics", "found 9100, expected host:port"),
    (
        MINIMAL + "status_page: true\n",
        1,
        "metrics",
        "found nothing, expected host:port, for the st",
    ),
    (MINIMAL + "metrics: unix:/m\n", 6, "metrics", r"unix:/m.*, expected host:port or \[v6\]:port"),
    (agent("save: 3"), 7, "agent.save", "found 3, expected a path"),
    (agent('save: ""'), 7, "agent.save", 'found "", expected a path'),
    (agent('save: "a\\nb"'), 7, "agent.save", "expected a path"),
    (agent("seed: 1.5"), 7, "agent.seed", "found 1.5, expected a whole number"),
    (agent("seed: |\n 5"), 7, "agent.seed", r'found "5\\n", expected a whole number'),
    # Bounds.
    (MINIMAL + "workers: 0\n", 6, "workers", "whole number, at least 1 and at most 64"),
    (MINIMAL + "workers: 65\n", 6, "workers", "found 65, expected"),
    (service("slots: 0"), 6, "services[0].slots", "at least 1 and at most 1024"),
    (service("slots: 1025"), 6, "services[0].slots", "at least 1 and at most 1024"),
    (service("max_connections: 0"), 6, "services[0].max_connections", "at least 1"),
    (service("ewma: {memory_flows: 0}"), 6, "services[0].ewma.memory_flows", "more than 0"),
    (service("ewma: {memory_s: 0}"), 6, "services[0].ewma.memory_s", "more than 0 .*, or null"),
    (service("timeouts: {connect_ms: 0}"), 6, "services[0].timeouts.connect_ms", "more than 0"),
    (service("timeouts: {idle_s: 0}"), 6, "services[0].timeouts.idle_s", "a number, more than 0"),
    (service("timeouts: {total_s: -1}"), 6, "services[0].timeouts.total_s", "more than 0"),
    (service("timeouts: {drain_s: -1}"), 6, "services[0].timeouts.drain_s", "at least 0"),
    (service("reservoir: {size: 0}"), 6, "services[0].reservoir.size", "at least 1"),
    (service("reservoir: {probability: 0}"), 6, "services[0].reservoir.probability", "more than 0"),
    (service("reservoir: {probability: 2}"), 6, "services[0].reservoir.probability", "at most 1"),
    (edit("weight: 2", "weight: 0"), 15, "services[0].backends[0].weight", "more than 0"),
    (edit("weight: 2", "weight: 1001"), 15, "services[0].backends[0].weight", "at most 1000"),
    (agent("interval_ms: 9"), 7, "agent.interval_ms", "at least 10 and at most 10000"),
    (agent("interval_ms: 10001"), 7, "agent.interval_ms", "at least 10 and at most 10000"),
    (agent("max_ratio: 1"), 7, "agent.max_ratio", "more than 1 and at most 1024"),
    (agent("max_ratio: 1025"), 7, "agent.max_ratio", "more than 1 and at most 1024"),
    (agent("save_every_s: 0"), 7, "agent.save_every_s", "more than 0"),
    (agent("expiry_ms: 600001"), 7, "agent.expiry_ms", "at most 600000"),
    (agent("seed: -1"), 7, "agent.seed", "at least 0"),
    # Names, choices, addresses.
    (MINIMAL.replace("web", "Web"), 2, "services[0].name", 'found "Web", expected text that'),
    (MINIMAL.replace("web", "w" * 33), 2, "services[0].name", "expected text that matches"),
    (MINIMAL.replace("web", '"w\\n"'), 2, "services[0].name", "expected text that matches"),
    (MINIMAL.replace("name: a", "name: _a"), 5, "services[0].backends[0].name", "expected text"),
    (service("policy: sedd"), 6, "services[0].policy", "one of rr, .*; did you mean sed?"),
    (service("fallback: none"), 6, "services[0].fallback", "one of rr, "),
    (service("weights: Static"), 6, "services[0].weights", "did you mean static?"),
    (agent("mode: off"), 7, "agent.mode", "one of learn, frozen, shadow"),
    (agent("reward: logvbf"), 7, "agent.reward", "did you mean logVBF?"),
    (agent("base: null"), 7, "agent.base", "found null, expected one of latency, none"),
    (
        MINIMAL.replace("127.0.0.1:8080", "8080"),
        3,
        "services[0].listen",
        "found 8080, expected host",
    ),
    (MINIMAL.replace("8080", "0"), 3, "services[0].listen", 'the port "0" is not'),
    (MINIMAL.replace("9001", "x"), 5, "services[0].backends[0].address", 'the port "x" is not'),
    (
        MINIMAL.replace("127.0.0.1:9001", "0.0.0.0:9001"),
        5,
        "services[0].backends[0].address",
        "expected an address to connect to",
    ),
    # Keys.
    (MINIMAL + "worker: 1\n", 6, "worker", "found an unknown key, .*; did you mean workers?"),
    (MINIMAL + "on: 1\n", 6, "on", "found an unknown key, expected one of workers, status_page"),
    (agent("inteval_ms:\n  250"), 7, "agent.inteval_ms", "did you mean interval_ms?"),
    (edit("weight: 2", "wieght: 2"), 15, "services[0].backends[0].wieght", "mean weight?"),
    (service("ewma:\n  memory_flow: 3"), 7, "services[0].ewma.memory_flow", "mean memory_flows?"),
    (MINIMAL + "workers: 1\n\nworkers: 2\n", 8, "workers", "found again, .*line 6 has it"),
    (MINIMAL + '"workers": 1\nworkers: 1\n', 7, "workers", "found again"),
    (service("name: web"), 6, "services[0].name", "found again, .*line 2 has it"),
    (MINIMAL + "<<: {workers: 2}\n", 6, "<<", "found a merge key"),
    (MINIMAL + "? [workers]\n: 2\n", 6, "(top level)", "found a list as a key"),
    (MINIMAL + "*a : 2\n", 6, "(top level)", r"found \*a as a key"),
    ("# nothing\nworkers: 1\n", 2, "services", "found no such key, expected one: What is"),
    (MINIMAL.replace("name: web", "slots: 3"), 2, "services[0].name", "found no such key"),
    (edit(', address: "unix:/run/b.sock"', ""), 16, "services[0].backends[1].address", "no such"),
    # Rules between keys.
    (service("ewma: {}"), 6, "services[0].ewma", "exactly one of memory_flows and memory_s"),
    (
        service("ewma:\n  memory_s: 1\n  memory_flows: 1"),
        6,
        "services[0].ewma",
        "exactly one of memory_flows and memory_s",
    ),
    (
        service("weights: agent\npolicy: least_time"),
        6,
        "services[0].weights",
        "policy least_time ignores .* wrr, wcmp, sed, p2c",
    ),
    (agent("expiry_ms: 250"), 7, "agent.expiry_ms", "more than interval_ms, which is 250"),
    (agent("interval_ms: 1000"), 6, "agent.expiry_ms", r"1000 \(the default\), expected more"),
    (
        agent("base: none"),
        7,
        "agent.base",
        'found "none", expected latency, or a checkpoint trained',
    ),
    (edit("slots: 8", "slots: 1"), 10, "services[0].slots", "found 1, expected at least 2"),
    (edit("name: b,", "name: a,"), 16, "services[0].backends[1].name", "a unique name in its"),
    (edit("name: db", "name: web"), 36, "services[1].name", "a unique name .services.0..name"),
    (
        edit("unix:/run/b.sock", "127.0.0.1:9001"),
        16,
        "services[0].backends[1].address",
        r"a unique address in its service \(services\[0\].backends\[0\].address is",
    ),
    (
        edit("[::1]:5432", "127.0.0.1:8080").replace(SNI, ""),
        36,
        "services[1].listen",
        "a unique listen address",
    ),
    (edit("127.0.0.1:9100", "[0:0::1]:5432"), 2, "metrics", "a unique listen address"),
]


@pytest.mark.parametrize(("text", "line", "key", "what"), WRONG_VALUES)
def test_a_mistake_is_named_by_file_line_and_key(
    write: Write, text: str, line: int, key: str, what: str
) -> None:
    message = refusal(write(text))
    assert re.fullmatch(rf"lbd\.yaml:{line}: {re.escape(key)}: .*{what}.*", message), message


def test_too_many_backends_for_the_default_slots_are_refused(write: Write) -> None:
    more = "".join(f"      - {{name: b{n}, address: b{n}:80}}\n" for n in range(64))
    message = refusal(write(MINIMAL + more))
    assert message == (
        "lbd.yaml:2: services[0].slots: found 64 (the default), "
        "expected at least 65, one for each backend"
    )


@pytest.mark.parametrize(
    ("listen", "backend"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[0:0:0::1]:80"),
        ("unix:/a", "unix:/a"),
        ("web.example:80", "WEB.example:80"),
        ("127.0.0.1:80", "localhost:80"),
        ("localhost:80", "[::1]:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.8.8.8:80"),
        ("0.0.0.0:80", "localhost:80"),
        ("'[::]:80'", "[::1]:80"),
    ],
)
def test_a_backend_that_is_a_service_is_a_loop(write: Write, listen: str, backend: str) -> None:
    text = edit('"[::1]:5432"', f'"{listen.strip(chr(39))}"').replace("127.0.0.1:9001", backend)
    text = text.replace("{address: 127.0.0.2, interface: lo}", "{interface: lo}")
    message = refusal(write(text))
    assert message.startswith("lbd.yaml:15: services[0].backends[0].address: found ")
    assert message.endswith("where no service listens (a loop: services[1].listen)")


@pytest.mark.parametrize(
    ("listen", "backend"),
    [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("0.0.0.0:80", "10.0.0.1:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:80", "web.example:80"),
        ("unix:/a", "unix:/b"),
        ("unix:/a", "127.0.0.1:80"),
    ],
)
def test_other_backends_are_no_loops(write: Write, listen: str, backend: str) -> None:
    text = edit("[::1]:5432", listen).replace("127.0.0.1:9001", backend)
    load(write(text.replace("{address: 127.0.0.2, interface: lo}", "{interface: lo}")))


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("", 1, r"\(file\): found nothing in the file, expected a mapping"),
        ("# only a comment\n", 1, r"\(file\): found nothing"),
        (b"a: 1\nb: \xff\n", 2, r"\(file\): found bytes that are not UTF-8"),
        ("a".encode("utf-16"), 1, r"\(file\): found bytes that are not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), 1, r"\(file\): found more than 1048576 bytes"),
        ("a: 1\nb: [\n", 3, r"\(yaml\): found a syntax error"),
        ("a: 1\n\tb: 2\n", 2, r"\(yaml\): found a syntax error .*\\t"),
        ("a: 1\nb: \x00\n", 2, r"\(yaml\): found a syntax error .*the character .*x00"),
        ("a: 1\n---\nb: 1\n", 2, r"\(yaml\): found a syntax error .*single document"),
        ("a: 1\nlisten: [::1]:80\n", 2, r"\(yaml\): .*; quote an address that begins with"),
        ("a: 1\nlisten: [fe80::1]:80\n", 2, r"\(yaml\): .*; quote an address that begins with"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', 2, r"\(yaml\): found a syntax error"),
        ("a: &x 1\nb: &x 1\n", 2, r"\(yaml\): found a syntax error .*anchor"),
        ("a: 1\nb: " + "[" * 5000, 2, r"\(yaml\): found a syntax error .*32 levels of nesting"),
        ("%YAML 7.0\n---\na: 1\n", 1, r"\(yaml\): found a syntax error"),
    ],
)
def test_what_is_no_yaml_is_named_by_line(
    write: Write, content: str | bytes, line: int, what: str
) -> None:
    message = refusal(write(content))
    assert re.fullmatch(rf"lbd\.yaml:{line}: {what}.*", message), message


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    missing = "none.yaml:1: (file): found no readable file (No such file or directory), expected"
    assert refusal(tmp_path / "none.yaml").startswith(missing)
    assert "(Is a directory)" in refusal(tmp_path)
    assert "(embedded null byte)" in refusal(tmp_path / "a\0b")


def test_aliases_neither_explode_nor_go_in_circles(write: Write) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    assert "a29[0]: found *a28, which is an alias" in refusal(write("\n".join(lines)))
    assert "a.b: found *c, which is an alias" in refusal(write("a: &c {b: *c}\n"))


def test_all_problems_come_out_at_once_sorted_by_line(write: Write) -> None:
    text = """\
workers: many
services:
  - name: web
    listen: "127.0.0.1:8080"
    polcy: sed
    weights: *w
    backends:
      - {name: a, address: "127.0.0.1:8080", weight: 010}
      - {name: a, address: "127.0.0.1:9002", weight: -1}
  - name: web
    listen: "127.0.0.1:8080"
    listen: "127.0.0.1:8081"
agent:
  interval_ms: 2000
  seed: .nan
"""
    message = refusal(write(text))
    assert re.findall(r"^lbd\.yaml:(\d+): (\S+): ", message, re.M) == [
        ("1", "workers"),
        ("5", "services[0].polcy"),
        ("6", "services[0].weights"),
        ("8", "services[0].backends[0].address"),
        ("8", "services[0].backends[0].address"),
        ("8", "services[0].backends[0].weight"),
        ("9", "services[0].backends[1].name"),
        ("9", "services[0].backends[1].weight"),
        ("10", "services[1].backends"),
        ("10", "services[1].name"),
        ("11", "services[1].listen"),
        ("12", "services[1].listen"),
        ("13", "agent.expiry_ms"),
        ("15", "agent.seed"),
    ]


def test_a_message_is_one_printable_line_a_problem(write: Write) -> None:
    message = refusal(write(MINIMAL + '"a\\n\\e[31mb\\uD800": 1\n'))
    assert message.splitlines() == [message]
    assert message.isprintable()
    message.encode()


def test_a_config_error_survives_pickling(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write("workers: 0\n"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.problems == caught.value.problems


def loads_or_explains(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        config = load(path)
    except ConfigError as error:
        refused = error
    else:
        assert isinstance(config, Config)
        return
    # YAML has line breaks beyond \n and \r.
    breaks = ["\n", "\r", "\x85", "\u2028", "\u2029"]
    lines = 1 + sum(content.count(mark.encode()) for mark in breaks)
    assert refused.problems
    assert all(1 <= problem.line <= lines for problem in refused.problems)
    assert list(refused.problems) == sorted(refused.problems)
    message = str(refused)
    assert len(message.splitlines()) == len(refused.problems)
    assert "Input should" not in message  # pydantic's words, not ours
    message.encode()


any_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@any_file
def test_any_content_loads_or_is_explained(tmp_path: Path, content: bytes) -> None:
    loads_or_explains(tmp_path / "lbd.yaml", content)


@given(text=st.text(" \n-:{}[]\"'\\&*!<>|?#%@,~=.0123456789aexnouyslTU_", max_size=40))
@any_file
def test_any_yaml_soup_loads_or_is_explained(tmp_path: Path, text: str) -> None:
    loads_or_explains(tmp_path / "lbd.yaml", b"services: " + text.encode())
    loads_or_explains(tmp_path / "lbd.yaml", text.encode())


@given(
    cut=st.tuples(st.integers(0, len(FULL)), st.integers(0, 12)),
    soup=st.text(" \n-:{}[]\"'&*!<>|?#~=.0159aexn", max_size=8),
)
@any_file
def test_any_damage_to_a_good_file_is_explained(
    tmp_path: Path, cut: tuple[int, int], soup: str
) -> None:
    start, length = cut
    damaged = FULL[:start] + soup + FULL[start + length :]
    loads_or_explains(tmp_path / "lbd.yaml", damaged.encode())


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["name", "size"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(value=json, data=st.data())
@any_file
def test_any_value_at_any_key_loads_or_is_explained(
    tmp_path: Path, value: object, data: st.DataObject
) -> None:
    tree = yaml.safe_load(FULL)
    parent: dict[object, object] | list[object] = tree
    while True:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = data.draw(st.sampled_from(keys))
        child = parent[key]  # type: ignore[call-overload]
        if not isinstance(child, dict | list) or data.draw(st.booleans()):
            break
        parent = child
    parent[key] = value  # type: ignore[call-overload]
    loads_or_explains(tmp_path / "lbd.yaml", yaml.safe_dump(tree, allow_unicode=True).encode())
