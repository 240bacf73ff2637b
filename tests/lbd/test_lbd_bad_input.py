"""What keeps the daemon from starting is said in plain words, and nothing is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lbd_daemon as ld
import pytest
import yaml
from lbd_backends import Backend, echo
from lbd_client import ask

from lbd.cli import main

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


def refusal(launch: Start, *services: dict[str, Any], **settings: Any) -> str:
    """The last line of a daemon that ends with 1."""
    one = launch(*services, **settings)
    assert one.wait() == 1, one.log
    assert "Traceback" not in one.log
    return one.log.strip().splitlines()[-1]


def test_a_wrong_configuration_exits_78_before_a_port_is_bound(launch: Start) -> None:
    service = ld.service(["127.0.0.1:1"], policy="no-such-policy")
    host, _, port = service["listen"].rpartition(":")
    with socket.create_server((host, int(port))):
        # Were it bound first, the busy port would be the complaint.
        one = launch(service)
        assert one.wait() == 78
    assert "services[0].policy" in one.log


def test_a_missing_file_exits_78(tmp_path: Path) -> None:
    run = command("--config", str(tmp_path / "absent.yaml"))
    assert run.returncode == 78
    assert "absent.yaml" in run.stderr


@pytest.mark.parametrize("arguments", [["--no-such"], []])
def test_wrong_arguments_exit_2(arguments: list[str]) -> None:
    assert command(*arguments).returncode == 2


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lbd", *arguments],
        cwd=ld.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_busy_port_is_named(launch: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal(launch, ld.service(["127.0.0.1:1"], listen=address))
    assert said == f"lbd: cannot listen on {address}: the address is in use by another process"


def test_a_busy_metrics_port_is_named(launch: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refusal(launch, ld.service(["127.0.0.1:1"]), metrics=address)
    assert said == f"lbd: cannot listen on {address}: the address is in use by another process"


def test_a_live_unix_socket_is_not_taken_over(launch: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen(64)
        said = refusal(launch, ld.service(["127.0.0.1:1"], listen=f"unix:{path}"))
        assert "in use" in said
        assert path.exists()


def test_a_dead_unix_socket_is_replaced(daemon: Start, backend: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    service = ld.service([backend(echo).address], listen=f"unix:{path}")
    daemon(service)
    assert ask(service) == b"ping"


def test_a_file_in_the_way_stays(launch: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    assert str(path) in refusal(launch, ld.service(["127.0.0.1:1"], listen=f"unix:{path}"))
    assert path.read_text() == "mine"


@root_only
def test_a_missing_right_is_named(launch: Start) -> None:
    """Ports are open to all where net.ipv4.ip_unprivileged_port_start is 0: a directory is not.

    Only forked, because the interpreter's own files may be closed to others.
    """
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o700)
        service = ld.service(["127.0.0.1:1"], listen=f"unix:{closed}/s")
        config = Path(folder) / "c.yaml"
        config.write_text(yaml.safe_dump({"services": [service]}))
        said = Path(folder) / "said"
        said.touch()
        os.chmod(folder, 0o755)
        # Loads the codecs while that is permitted.
        assert b"x".decode("utf-8-sig") == "x"
        assert socket.getaddrinfo("127.0.0.1", 80)
        pid = os.fork()
        if not pid:
            status = 99
            try:
                os.dup2(os.open(said, os.O_WRONLY), 2)
                os.setuid(NOBODY)
                sys.stderr = os.fdopen(2, "w")
                status = main(["--config", str(config)])
                sys.stderr.flush()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        assert said.read_text() == (
            f"lbd: cannot listen on {service['listen']}: "
            "the right to use its directory is missing\n"
        )
    assert not ld.segment_path(service["name"]).exists()


def test_an_address_of_another_machine_is_named(launch: Start) -> None:
    said = refusal(launch, ld.service(["127.0.0.1:1"], listen="192.0.2.1:8080"))
    assert said == "lbd: cannot listen on 192.0.2.1:8080: this machine has no such address"


def test_a_backend_without_an_address_is_named(launch: Start) -> None:
    said = refusal(launch, ld.service(["no-such-host.invalid:80"]))
    assert "cannot resolve no-such-host.invalid" in said


def test_a_second_daemon_of_the_same_service_is_turned_away(
    daemon: Start, launch: Start, backend: Make
) -> None:
    service = ld.service([backend(echo).address])
    one = daemon(service)
    other = {**service, "listen": f"127.0.0.1:{ld.free_port()}"}
    said = refusal(launch, other)
    assert f"lbd.{service['name']} belongs to a live process (pid {one.pid})" in said
    assert ask(service) == b"ping"


@root_only
def test_a_full_shared_memory_is_named(launch: Start) -> None:
    """A mount namespace of its own, with a /dev/shm of 64 KiB."""
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    wrap = ("unshare", "-m", "sh", "-c", script, "sh")
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a mount namespace")
    said = refusal(launch, ld.service(["127.0.0.1:1"]), wrap=wrap)
    assert said.startswith("lbd: /dev/shm is full: ")


def test_a_region_of_one_service_goes_when_another_fails(launch: Start, daemon: Start) -> None:
    """All or nothing: the first service is not left half started."""
    busy = ld.service(["127.0.0.1:1"])
    daemon(busy)
    first = ld.service(["127.0.0.1:1"])
    second = {**busy, "listen": f"127.0.0.1:{ld.free_port()}"}
    refusal(launch, first, second)
    assert not ld.segment_path(first["name"]).exists()
