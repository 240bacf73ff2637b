"""Real backends and the real daemon, and a clean machine after the test.

Lives here: what tests of several folders start, and what must be gone when they end, however they
ended. Never here: what only one folder's tests want (its `conftest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lbd_backends import Backend, Script
from lbd_daemon import Daemon


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
    # All are told first: they end together.
    for one in started:
        one.terminate()
    left = [what for one in reversed(started) for what in one.close()]
    assert not left, "\n".join([f"left behind: {left}", *logs])


@pytest.fixture
def daemon(launch: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """The same, and wait until all workers serve."""

    def start(*services: dict[str, Any], **settings: Any) -> Daemon:
        return launch(*services, **settings).start()

    return start
