"""Names, regions and child processes of the tests beside it, and their certain end.

Lives here: fixtures. Never here: what is tested. A segment is removed by its exact name, so that a
run beside this one, or a balancer on the same machine, keeps its own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm import segment
from shm.layout import Layout
from shm.region import Region

ROOT = Path(segment.__file__).parents[1]
NUMBERS = itertools.count()

NewName = Callable[[], str]
Create = Callable[..., Region]
Child = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def new_name() -> Iterator[NewName]:
    """Gives unique service names; what lies under them is gone afterwards."""
    given: list[str] = []

    def make() -> str:
        given.append(f"test-{os.getpid()}-{next(NUMBERS)}")
        return given[-1]

    yield make
    for name in given:
        segment.unlink(name)


@pytest.fixture
def service(new_name: NewName) -> str:
    return new_name()


@pytest.fixture
def create(new_name: NewName) -> Iterator[Create]:
    """Creates regions that are closed afterwards."""
    made: list[Region] = []

    def make(
        workers: int = 2, slots: int = 8, reservoir: int = 4, depth: int = 4, **more: int
    ) -> Region:
        made.append(Region.create(new_name(), Layout(workers, slots, reservoir, depth, **more)))
        return made[-1]

    yield make
    for region in made:
        region.close()


@pytest.fixture
def child() -> Iterator[Child]:
    """Starts Python code in another process and waits for its first line of output."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), "the child died at its start"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
