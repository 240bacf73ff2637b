"""What holds for all tests: nothing is judged by how long it took, and who may run beside whom.

Lives here: settings of the libraries that the tests use. Never here: fixtures.
"""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

_COMPUTING = [Path(__file__).parent / part for part in ("sim", "config")]
"""They open no socket and no shared memory, and ask nobody else's processor for an answer."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of live processes run one after another, also where several run at once (`-n 2`)."""
    for item in items:
        if not any(item.path.is_relative_to(part) for part in _COMPUTING):
            item.add_marker(pytest.mark.xdist_group("live"))
