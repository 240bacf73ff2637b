"""What holds for all tests: nothing is judged by how long it took, and nothing is compiled twice.

Lives here: settings of the libraries that the tests use. Never here: fixtures of tests.
"""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Hundreds of daemons are started, which import the same files: where their bytecode may not be
    kept, compiling it is a sixth of what a start takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Before the figures of coverage are put together: a process that was killed while it saved its
    own has left half a file, from which nothing can be read."""
    result = yield
    if not hasattr(session.config, "workerinput"):
        for path in session.config.rootpath.glob(".coverage.*"):
            if not _is_whole(path):
                path.unlink()
    return result


def _is_whole(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as data:
        try:
            data.execute("select version from coverage_schema")
            return bool(data.execute("pragma quick_check").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False
