"""Child processes end with whoever started them, and the command line runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time

import pytest

from testbed.cli import main
from testbed.load.command import EXIT_NOT_BELIEVABLE
from testbed.processes import ChildError, Children, free_ports

PATIENCE_S = 60
SLEEPER = "import time; print('ready: now', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def gone(pid: int) -> bool:
    """Whether the process ends in time; one that nobody has waited for yet has ended."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_child_is_ready_runs_and_ends_with_its_block():
    with Children() as children:
        child = children.start("sleeper", python(SLEEPER))
        assert child.wait_line("ready:", PATIENCE_S) == "ready: now"
        assert child.running()
        assert child.cpu_s() >= 0
    assert child.returncode == -signal.SIGTERM
    assert not child.running()
    assert child.cpu_s() > 0


def test_a_failure_in_the_block_ends_the_children():
    started = []

    def fail() -> None:
        with Children() as children:
            started.append(children.start("sleeper", python(SLEEPER)))
            started[0].wait_line("ready:", PATIENCE_S)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    (child,) = started
    assert child.returncode == -signal.SIGTERM


def test_a_child_that_ignores_sigterm_is_killed():
    with Children() as children:
        child = children.start("stubborn", python(STUBBORN))
        child.wait_line("ready:", PATIENCE_S)
        assert child.stop(grace_s=0.1) == -signal.SIGKILL


def test_what_a_child_started_ends_with_it():
    code = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); "
        "print('grandchild', child.pid, flush=True); child.wait()"
    )
    with Children() as children:
        child = children.start("parent", python(code))
        grandchild = int(child.wait_line("grandchild", PATIENCE_S).split()[1])
    assert gone(grandchild)


def test_children_end_with_a_parent_that_is_killed():
    code = (
        "import sys, time; from testbed.processes import Children; "
        f"child = Children().start('sleeper', [sys.executable, '-c', {SLEEPER!r}]); "
        "child.wait_line('ready:', 60); print('child', child.pid, flush=True); time.sleep(600)"
    )
    with Children() as children:
        parent = children.start("parent", python(code))
        child = int(parent.wait_line("child", PATIENCE_S).split()[1])
        parent.send_signal(signal.SIGKILL)
        assert parent.wait(PATIENCE_S) == -signal.SIGKILL
    assert gone(child)


def test_a_child_that_ends_before_it_is_ready_says_why():
    with Children() as children:
        child = children.start("broken", python("raise SystemExit('no such thing')"))
        with pytest.raises(ChildError, match="no such thing"):
            child.wait_line("ready:", PATIENCE_S)
        assert child.wait(PATIENCE_S) == 1
        assert child.stop() == 1


def test_a_silent_child_is_not_waited_for_beyond_the_deadline():
    with Children() as children:
        child = children.start("silent", python("import time; time.sleep(600)"))
        with pytest.raises(ChildError, match="took more than"):
            child.wait_line("ready:", 0.05)
        with pytest.raises(ChildError, match="still runs"):
            child.wait(0.01)


def test_free_ports_are_different_and_free():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", port))


def server_port(line: str) -> int:
    return int(line.split(",")[0].rpartition(":")[2])


def test_server_and_load_run_from_the_command_line(tmp_path, capsys):
    with Children() as children:
        server = children.start(
            "server",
            [sys.executable, "-m", "testbed", "server", "--listen", "127.0.0.1:0", "--cpus", "2"],
        )
        port = server_port(server.wait_line("ready:", PATIENCE_S))
        file = tmp_path / "run.npz"
        flags = ["load", "--target", f"127.0.0.1:{port}", "--rate", "100", "--duration", "0.3"]
        flags += ["--mean-ms", "1", "--max-lag-ms", "1000"]
        assert main([*flags, "--json", "--save", str(file)]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["succeeded"] == summary["requests"] > 0
        assert file.exists()
        assert main(flags) == 0
        assert "own lag" in capsys.readouterr().out
        assert main([*flags[:-1], "0.000001"]) == EXIT_NOT_BELIEVABLE
        assert main([*flags, "--trace", str(tmp_path / "none.csv")]) == 2
        assert server.stop() == 0


def test_a_server_ends_when_its_parent_does():
    code = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-m', 'testbed', 'server'], "
        "stdout=subprocess.PIPE, start_new_session=True); "
        "child.stdout.readline(); print('server', child.pid, flush=True); time.sleep(600)"
    )
    with Children() as children:
        parent = children.start("parent", python(code))
        pid = int(parent.wait_line("server", PATIENCE_S).split()[1])
        parent.send_signal(signal.SIGKILL)
        parent.wait(PATIENCE_S)
    try:
        assert gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_unknown_subcommand_or_flag_is_an_error(capsys):
    for argv in (["nothing"], [], ["server", "--listen", "nowhere"], ["load", "--rate", "1"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
