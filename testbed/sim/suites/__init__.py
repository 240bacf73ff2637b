"""The scenario suites that come with the testbed, one YAML file each, found by name.

Lives here: where they are, and the goals that a suite may set. Never here: what scenarios may say
(`testbed.sim.scenario`).
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import TypeAdapter

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


Goals = dict[str, tuple[float, float]]
"""Of a kind: the most that its worst scenario may cost, mean and p99, over the reference's."""


def goals(path: Path) -> Goals:
    """What the suite's file says under `goals`. Raises SuiteError."""
    try:
        document = yaml.safe_load(path.read_text())
        return TypeAdapter(Goals).validate_python(document.get("goals", {}))
    except (OSError, yaml.YAMLError, AttributeError, ValueError) as error:
        raise SuiteError(f"{path}: {error}") from error
