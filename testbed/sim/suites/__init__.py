"""Suites of scenarios, one YAML file each: those that come with the testbed, and any other.

Lives here: finding them, reading them, what a suite says besides its scenarios. Never here: what a
scenario may say (`testbed.sim.scenario`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from testbed.load.trace import TraceError, read_trace
from testbed.sim.scenario import Positive, Scenario

FOLDER = Path(__file__).parent
_SHOWN_PROBLEMS = 8


class SuiteError(ValueError):
    """A suite's file cannot be used; the message names the file, the line and the key."""


Goals = dict[str, tuple[Positive, Positive]]
"""Of a kind: the most that its worst scenario may cost, mean and p99, over the reference's."""


class Suite(BaseModel):
    """`scenarios`, each with `defaults` under it; fleets and jobs only hold anchors for YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: tuple[Scenario, ...] = Field(min_length=1)
    goals: Goals = {}
    defaults: dict[str, Any] = {}
    fleets: list[Any] = []
    jobs: list[Any] = []

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, document: Any) -> Any:
        defaults, entries = (document.get(key) for key in ("defaults", "scenarios"))
        if not isinstance(defaults, dict) or not isinstance(entries, list):
            return document
        merged = [defaults | entry if isinstance(entry, dict) else entry for entry in entries]
        return {**document, "scenarios": merged}

    @model_validator(mode="after")
    def _named(self) -> Suite:
        names = [scenario.name for scenario in self.scenarios]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two scenarios have the same name: {name}")
        kinds = {scenario.kind for scenario in self.scenarios}
        for kind in self.goals:
            if kind not in kinds:
                raise ValueError(f"goals: no scenario is of the kind {kind!r}")
        return self


def names() -> list[str]:
    """Every suite that comes with the testbed."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a suite: one of ours by its name, any other by its path. Raises SuiteError."""
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise SuiteError(f"no suite {name!r}: neither a file nor one of {', '.join(names())}")


def load(path: Path) -> Suite:
    """The suite in a YAML file; paths of traces in it begin at its folder. Raises SuiteError."""
    try:
        root = yaml.compose(text := path.read_text(encoding="utf-8"), yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SuiteError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise SuiteError(f"{path}: a suite is a mapping with a list of `scenarios`")
    try:
        suite = Suite.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        problems = [
            f"{path}:{_line(root, details['loc'])}: {_place(document, details['loc'])}"
            f"{details['msg'].removeprefix('Value error, ')}"
            for details in error.errors(include_url=False)
            # A list whose elements are all invalid is not too short.
            if details["type"] != "too_short" or not details["input"]
        ]
        left = len(problems) - _SHOWN_PROBLEMS
        more = [f"and {left} more"] if left > 0 else []
        raise SuiteError("\n".join([*problems[:_SHOWN_PROBLEMS], *more])) from error
    for number, scenario in enumerate(suite.scenarios):
        if scenario.arrivals.trace is not None:
            try:
                read_trace(scenario.arrivals.trace)
            except (OSError, TraceError) as error:
                line = _line(root, ("scenarios", number, "arrivals", "trace"))
                raise SuiteError(f"{path}:{line}: {scenario.name}: {error}") from error
    return suite


def chosen(suite: Suite, names: str | None) -> tuple[Scenario, ...]:
    """Those with these names, commas between; None means all. Raises SuiteError."""
    if names is None:
        return suite.scenarios
    known = {scenario.name: scenario for scenario in suite.scenarios}
    wanted = dict.fromkeys(names.split(","))
    for name in wanted:
        if name not in known:
            raise SuiteError(f"no scenario {name!r} in the suite; known: {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def _line(root: yaml.Node | None, loc: Sequence[int | str]) -> int:
    """Of the innermost value on the way to `loc` that the file has, from 1."""
    node = root
    for key in loc:
        inner = None
        if isinstance(node, yaml.MappingNode):
            inner = next((value for name, value in node.value if name.value == key), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            inner = node.value[key] if key < len(node.value) else None
        if inner is None:
            break
        node = inner
    return 1 if node is None else int(node.start_mark.line) + 1


def _place(document: Mapping[str, Any], loc: Sequence[int | str]) -> str:
    """A scenario by its name, then the keys below it."""
    parts = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "scenarios":
        entry = document["scenarios"][loc[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        parts[:2] = [f"scenarios.{loc[1]}" if name is None else str(name)]
    return f"{'.'.join(parts)}: " if parts else ""
