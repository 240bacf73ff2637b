"""What stands in a balancer's place: configurations that the programs themselves accept."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time

import pytest
import yaml

from config.load import load
from testbed.experiments import methods
from testbed.experiments.methods import haproxy, lbd, nginx
from testbed.experiments.place import Backend, Place, until_listening, whole_weights
from testbed.processes import ChildError, Children, free_ports

SBIN = "/usr/sbin:/usr/local/sbin:/usr/bin"
BACKENDS = (
    Backend("small1", "127.0.0.1", 9001, 0.1, ("127.0.0.1", 9101)),
    Backend("large1", "127.0.0.1", 9002, 0.2, ("127.0.0.1", 9102)),
)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place("test-0", subprocess.Popen, "127.0.0.1", 9000, tmp_path)


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.ours(n)])
def test_lbd_accepts_its_configuration(place, name):
    path = place.folder / "lbd.yaml"
    path.write_text(yaml.safe_dump(lbd.configuration(name, place, BACKENDS)))
    (service,) = load(path).services
    weights = [backend.weight for backend in service.backends]
    assert weights == ([1.0, 1.0] if name == "agent" else [0.1, 0.2])
    assert (service.weights == "agent") == (name in ("agent", "awcmp"))


def test_awcmp_asks_as_often_as_its_name_says(place):
    class Recorded:
        def start(self, name, argv, **_):
            self.argv = argv

    started = Recorded()
    for name, period_s in (("awcmp", "0.25"), ("awcmp:8", "0.125")):
        methods.check(name)
        assert methods.needs_sensors(name)
        lbd.start(name, place, BACKENDS, started)
        assert period_s in started.argv
        assert lbd.configuration(name, place, BACKENDS)["agent"] == {"mode": "frozen"}


@pytest.mark.parametrize("name", [n for n in methods.names() if n.startswith("haproxy")])
def test_haproxy_accepts_its_configuration(place, name):
    program = shutil.which("haproxy", path=SBIN)
    if program is None:
        pytest.skip("needs haproxy")
    path = place.folder / "haproxy.cfg"
    path.write_text(haproxy.configuration(name, place, BACKENDS))
    checked = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "weight 50" in path.read_text()
    assert "weight 100" in path.read_text()


def test_nginx_accepts_its_configuration(place):
    program = shutil.which("nginx", path=SBIN)
    if program is None:
        pytest.skip("needs nginx with its stream module")
    path = place.folder / "nginx.conf"
    path.write_text(nginx.configuration("nginx-least_conn", place, BACKENDS))
    argv = [program, "-t", "-e", "stderr", "-p", str(place.folder), "-c", str(path)]
    checked = subprocess.run(argv, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_nginx_ends_with_whoever_started_it(tmp_path):
    program = shutil.which("nginx", path=SBIN)
    if program is None:
        pytest.skip("needs nginx with its stream module")
    port = free_ports(1)[0]
    code = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from testbed.experiments.methods import nginx\n"
        "from testbed.experiments.place import Backend, Place\n"
        "from testbed.processes import Children\n"
        f"place = Place('end', subprocess.Popen, '127.0.0.1', {port}, Path({str(tmp_path)!r}))\n"
        "with Children() as children:\n"
        "    backends = [Backend('a', '127.0.0.1', 9, 1.0)]\n"
        "    nginx.start('nginx-least_conn', place, backends, children).wait()\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as starter:
        try:
            assert starter.stdout is not None
            assert starter.stdout.readline() == b"up\n"
        finally:
            starter.kill()
    until_s = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
        assert time.monotonic() < until_s, "nginx lives on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "name",
    ["best", "haproxy", "sed:1", "agent:", "nginx-random", "awcmp:", "awcmp:often", "awcmp:0"],
)
def test_what_is_no_method_is_refused(name):
    with pytest.raises(methods.MethodError, match="there are"):
        methods.check(name)


def test_weights_keep_their_proportion():
    assert whole_weights(BACKENDS) == {"small1": 50, "large1": 100}
    tiny = Backend("tiny", "127.0.0.1", 1, 1e-6)
    assert whole_weights([tiny, BACKENDS[1]])["tiny"] == 1
    assert methods.router_weights("router-wcmp", BACKENDS) == {"small1": 10, "large1": 20}
    assert methods.router_weights("router-ecmp", BACKENDS) == {"small1": 1, "large1": 1}
    assert methods.router_weights("sed", BACKENDS) is None


def test_a_program_that_does_not_listen_says_why(place):
    with Children() as children:
        child = children.start("mute", [sys.executable, "-c", "print('no such thing')"])
        with pytest.raises(ChildError, match=r"9000.*\nno such thing"):
            until_listening(child, "127.0.0.1", 9000)
