"""The `.vtc` scenarios beside this file, run by varnishtest against the real daemon.

Lives here: how they are started. In a scenario: `${python}`, `${root}` to run the daemon with;
`${name}`, unique, for services; `${port1}` to `${port3}`, free on loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lbd_daemon as ld
import pytest

from testbed.processes import free_ports

pytestmark = pytest.mark.scenario
HERE = Path(__file__).parent


@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.vtc")))
def test_scenario(name: str) -> None:
    program = shutil.which("varnishtest")
    if program is None:
        pytest.skip("varnishtest is not installed")
    macros = {"python": sys.executable, "root": str(ld.ROOT), "name": ld.unique_name()}
    macros |= {f"port{number}": str(port) for number, port in enumerate(free_ports(3), 1)}
    defined = [part for key, value in macros.items() for part in ("-D", f"{key}={value}")]
    ended = subprocess.run(
        [program, "-t", "250", *defined, str(HERE / name)],
        env={**os.environ, "PYTHONPATH": str(ld.ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not ld.segment_path(macros["name"]).exists()
