"""Labs of tests: a root of their own, nothing left behind, and what is left if something is.

Lives here: what the tests of labs share. Never here: what is tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.lab import network
from testbed.lab.cgroup import Hierarchy
from testbed.lab.namespaces import Namespaces
from testbed.lab.needs import missing
from testbed.lab.topology import Topology


def need(topology: Topology) -> None:
    """Skip the test where this host cannot run it, saying why."""
    lacking = missing(topology)
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


@contextmanager
def driver() -> Iterator[Namespaces]:
    """A driver whose labs are removed in the end."""
    # Not below the test's own folder: Apache's workers are not root and could not read there.
    with tempfile.TemporaryDirectory(prefix="lbd-test-", dir="/run") as root:
        Path(root).chmod(0o755)
        made = Namespaces(Path(root))
        try:
            yield made
        finally:
            for name in made.labs():
                made.down(name)


def left_of(prefix: str) -> list[str]:
    """Namespaces and groups whose names begin so."""
    tops = [network.FOLDER, *Hierarchy.detect().tops]
    return [str(found) for top in tops if top.exists() for found in top.glob(f"{prefix}*")]
