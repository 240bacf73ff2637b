"""The log: a line a flow as it was asked for, events always, and nobody ever waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
from lbd_backends import Backend, echo, reset
from lbd_client import ask, connect
from lbd_waiting import until

from config.logs import FlowLog, Log
from lbd.logs import Events, LineWriter, timestamp

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]


def flow_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_every_flow_has_a_line_when_it_ends(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path = tmp_path / "log"
    service = ld.service([backend(echo).address], flow_log={"format": "json"})
    daemon(service, workers=2, log={"file": str(path)})
    with connect(service) as sock:
        client = "{}:{}".format(*sock.getsockname())
        sock.sendall(b"12345")
        assert sock.recv(5) == b"12345"
        assert flow_lines(path) == []
    for _ in range(9):
        ask(service)
    lines = until(lambda: (found := flow_lines(path)) and len(found) == 10 and found, "10 lines")
    (line,) = [line for line in lines if line["client"] == client]
    assert line["service"] == service["name"]
    assert (line["backend"], line["outcome"]) == ("b0", "completed")
    assert (line["bytes_in"], line["bytes_out"]) == (5, 5)
    assert 0 < line["connect_ms"] < line["total_ms"]
    assert 0 < line["response_ms"] < line["total_ms"]
    assert line["worker"] in (0, 1)


def test_a_template_says_what_is_in_a_line(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = {"template": "FLOW {service}>{backend} {bytes_in} {{{outcome}}} {response_ms}"}
    service = ld.service(["127.0.0.1:1"], flow_log=log, retry={"others": 0})
    daemon(service, log={"file": str(path)})
    with pytest.raises(ConnectionResetError), connect(service) as sock:
        sock.recv(1)
    line = f"FLOW {service['name']}>b0 0 {{connect_failed}} -"
    until(lambda: line in path.read_text().splitlines(), "the line")


def test_failures_are_logged_whatever_the_sample(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    log = {"format": "json", "sample": 0}
    good = ld.service([backend(echo).address], flow_log=dict(log))
    bad = ld.service([backend(reset).address], flow_log=dict(log), retry={"others": 0})
    daemon(good, bad, log={"file": str(path)})
    for _ in range(5):
        ask(good)
        with contextlib.suppress(ConnectionResetError), connect(bad) as sock:
            sock.recv(1)
    lines = until(lambda: (found := flow_lines(path)) and len(found) == 5 and found, "5 lines")
    assert {line["service"] for line in lines} == {bad["name"]}


def test_a_moved_log_is_opened_again(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    service = ld.service([backend(echo).address], flow_log={"format": "json"})
    one = daemon(service, workers=2, log={"file": str(path)})
    ask(service)
    until(lambda: len(flow_lines(path)) == 1, "the first line")
    path.rename(moved)
    ask(service)
    until(lambda: len(flow_lines(moved)) == 2, "the second line in the moved file")
    one.send(signal.SIGUSR1)
    until(path.exists, "the file opened again")
    before = len(moved.read_text())

    def both_reopened() -> bool:
        ask(service)
        return len(flow_lines(path)) > 5

    until(both_reopened, "lines in the new file")
    one.stop()
    assert "stopping" in path.read_text()
    assert len(moved.read_text()) >= before


def test_the_flow_log_is_turned_on_and_off_by_a_reload(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    service = ld.service([backend(echo).address])
    one = daemon(service, log={"file": str(path)})
    ask(service)
    for number, setting in ((1, {"format": "json"}), (1, None)):
        config = {"log": {"file": str(path)}, "services": [{**service, "flow_log": setting}]}
        one.path.write_text(json.dumps(config))
        reloads = path.read_text().count("reloaded")
        one.send(signal.SIGHUP)
        until(lambda n=reloads: path.read_text().count("reloaded") > n, "the reload")
        ask(service)
        until(lambda n=number: len(flow_lines(path)) == n, "only what was asked for")
    ask(service)
    one.stop()
    assert len(flow_lines(path)) == 1


def test_events_as_json(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = daemon(ld.service([backend(echo).address]), log={"file": str(path), "format": "json"})
    until(lambda: "ready" in path.read_text(), "the first event")
    one.stop()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(event["level"], event["message"]) for event in events if event["process"] == "lbd"]
    assert told[-1] == ("info", "SIGTERM: stopping")


def test_what_was_dropped_is_told_as_an_event(tmp_path: Path) -> None:
    """Whoever reads lines of JSON gets no other."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(path), 100)
    events = Events(writer, Log(file=str(path), format="json"), "lbd")
    writer.notice = events.warning
    until(lambda: not writer.put(json.dumps("x" * 10_000)), "the queue full")
    os.set_blocking(reader, True)
    seen = b""
    while b"log lines dropped" not in seen or not seen.endswith(b"\n"):
        seen += os.read(reader, 1 << 16)
    writer.close()
    os.close(reader)
    (told,) = [line for line in map(json.loads, seen.splitlines()) if isinstance(line, dict)]
    assert (told["level"], told["process"]) == ("warning", "lbd")
    assert re.fullmatch(r"\d+ log lines dropped", told["message"])


def test_a_log_that_cannot_be_opened_is_told(launch: Start) -> None:
    one = launch(ld.service(["127.0.0.1:1"]), log={"file": "/nowhere/log"})
    assert one.wait() == 1
    assert "lbd: cannot log to /nowhere/log: No such file or directory" in one.log


def test_who_reads_nothing_stops_nobody(tmp_path: Path) -> None:
    """A pipe that is full: lines are dropped and counted, and told of once it is read again."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = LineWriter(str(path), 100)
    text = "x" * 10_000

    def full() -> bool:
        return not writer.put(text)

    until(full, "the queue full")
    writer.put(text)
    dropped = writer.dropped_total
    assert dropped >= 2
    os.set_blocking(reader, True)
    seen = b""
    while b"log lines dropped" not in seen:
        seen += os.read(reader, 1 << 16)
    writer.close()
    os.close(reader)
    lines = seen.decode().splitlines()
    assert lines[0] == text
    assert lines[-1].endswith("log lines dropped") or text.startswith(lines[-1])


def test_workers_serve_while_nobody_reads_their_log(
    daemon: Start, backend: Make, tmp_path: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    template = "{client} " + "x" * 900
    service = ld.service([backend(echo).address], flow_log={"template": template})
    daemon(service, log={"file": str(path), "pending_lines": 100})

    def dropped() -> int:
        for _ in range(20):
            assert ask(service) == b"ping"
        return ld.scalars(service["name"])["log_dropped_total"]

    assert until(dropped, "lines dropped and counted") > 0
    os.close(reader)


def test_the_time_is_written_in_utc() -> None:
    assert timestamp(0.0625) == "1970-01-01T00:00:00.062Z"
    assert timestamp(time.time()).endswith("Z")


@pytest.mark.parametrize(
    "template",
    ["{nobody}", "{time:>20}", "{time!r}", "{", "{0}", "{}", "a\nb", "{time.__class__}"],
)
def test_a_template_of_anything_else_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        FlowLog(template=template)


def test_a_relative_log_file_is_refused() -> None:
    with pytest.raises(ValueError, match="file"):
        Log(file="log")
