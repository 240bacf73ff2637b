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

import pytest
import yaml
from lbd_daemon import free_port
from lbd_fixtures import backend, daemon, launch
from lbd_zone import zone

__all__ = ["backend", "daemon", "launch", "zone"]


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
) -> Iterator[Callable[..., Callable[[str], float | None]]]:
    """Start a Prometheus that scrapes an address every 100 ms, with options of its own after that.

    Gives its query function.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(target: str, *options: str) -> Callable[[str], float | None]:
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
                    *options,
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
                with urllib.request.urlopen(url, timeout=120) as answer:
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
        process.wait(60)
