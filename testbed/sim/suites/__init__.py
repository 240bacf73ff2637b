"""The scenario suites that come with the testbed, one YAML file each, found by name.

Lives here: where they are. Never here: what a suite may say (`testbed.sim.scenario`).
"""

from __future__ import annotations

from pathlib import Path

from testbed.sim.scenario import SuiteError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every suite that comes with the testbed."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a suite: one of ours by its name, any other by its path. Raises SuiteError."""
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise SuiteError(f"no suite {name!r}: neither a file nor one of {', '.join(names())}")
