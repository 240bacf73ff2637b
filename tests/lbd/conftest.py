"""Fixtures of the data plane's tests: real backends, the real daemon, and a clean machine after.

Lives here: what is started for a test and what must be gone when it ends, however it ended.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lbd_backends import Backend, Script
from lbd_daemon import Daemon, free_port


@pytest.fixture
def backend() -> Iterator[Callable[..., Backend]]:
    """Start a backend with a script."""
    started: list[Backend] = []

    def start(script: Script, **settings: Any) -> Backend:
        started.append(Backend(script, **settings))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start the daemon with services, not waiting for it; nothing of it is left after the test."""
    started: list[Daemon] = []

    def start(*services: dict[str, Any], **settings: Any) -> Daemon:
        own = ("wrap", "preexec_fn", "pass_fds")
        popen = {key: settings.pop(key) for key in own if key in settings}
        config = {**settings, "services": list(services)}
        started.append(Daemon(config, tmp_path, **popen))
        return started[-1]

    yield start
    logs = [one.log for one in started]
    left = [what for one in reversed(started) for what in one.close()]
    assert not left, "\n".join([f"left behind: {left}", *logs])


@pytest.fixture
def daemon(launch: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """The same, and wait until all workers serve."""

    def start(*services: dict[str, Any], **settings: Any) -> Daemon:
        return launch(*services, **settings).start()

    return start


@pytest.fixture
def debian_tool() -> Callable[[str], str]:
    """The path of a program of another package; without it the test is skipped."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture
def prometheus(
    debian_tool: Callable[[str], str], tmp_path: Path
) -> Iterator[Callable[[str], Callable[[str], float | None]]]:
    """Start a Prometheus that scrapes an address every 100 ms; gives its query function."""
    started: list[subprocess.Popen[bytes]] = []

    def start(target: str) -> Callable[[str], float | None]:
        address = f"127.0.0.1:{free_port()}"
        job = {"job_name": "lbd", "static_configs": [{"targets": [target]}]}
        (tmp_path / "prometheus.yml").write_text(
            yaml.safe_dump({"global": {"scrape_interval": "100ms"}, "scrape_configs": [job]})
        )
        started.append(
            subprocess.Popen(
                [
                    debian_tool("prometheus"),
                    f"--config.file={tmp_path}/prometheus.yml",
                    f"--storage.tsdb.path={tmp_path}/tsdb",
                    f"--web.listen-address={address}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

        def query(expression: str) -> float | None:
            """Its one value; None where there is none, or nobody to ask yet."""
            asked = urllib.parse.urlencode({"query": expression})
            try:
                url = f"http://{address}/api/v1/query?{asked}"
                with urllib.request.urlopen(url, timeout=20) as answer:
                    found = json.load(answer)["data"]["result"]
            except urllib.error.HTTPError as error:
                error.close()
                return None
            except urllib.error.URLError:
                return None
            return float(found[0]["value"][1]) if found else None

        return query

    yield start
    for process in started:
        process.terminate()
        process.wait(30)
