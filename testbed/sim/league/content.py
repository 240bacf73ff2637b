"""What a run's figures depend on, as one hash: the same content has the same figures.

Lives here: scenario, policy, seed, the source that simulates them, the files that they read.
Never here: where figures are kept (`cache`).
The source is followed from module to module by its imports, so that a new file counts by itself.
A rule that is not stepped by the clock is all in its constants, so that work on agents does not
outdate it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import agent
import testbed
from testbed.sim.policies import rule
from testbed.sim.scenario import Scenario

_ROOT = Path(testbed.__file__).parent.parent
_OURS = ("agent", "config", "lbd", "shm", "testbed")


def key(scenario: str, rule: str, seed: int) -> str:
    """The hash of a run, 64 hex digits, from the digests of its scenario and of its rule."""
    return _digest(json.dumps([scenario, rule, seed, engine_digest()]).encode())


def scenario_digest(scenario: Scenario) -> str:
    """Of all that is simulated; not of `name` and `kind`, which only tables show."""
    apart = {"name": True, "kind": True, "arrivals": {"trace"}}
    content = scenario.model_dump(mode="json", exclude=apart)
    trace = scenario.arrivals.trace
    files = _digest(trace.read_bytes()) if trace is not None else ""
    return _digest(json.dumps([content, files], sort_keys=True).encode())


def rule_digest(spec: str) -> str:
    """Of what chooses; `ewma` and the same with its memory spelled out are one rule.

    Raises RuleError for a policy that is none.
    """
    chosen = rule(spec)
    content: dict[str, Any] = {
        "code": chosen.code,
        "weights": chosen.weights,
        "memory": [chosen.memory_flows, chosen.memory_s],
    }
    if chosen.weights == "true" or chosen.controller is not None:
        content["source"] = source_digest("testbed.sim.policies")
    if chosen.controller is not None:
        content |= parameters_digest(spec)
    return _digest(json.dumps(content, sort_keys=True).encode())


def parameters_digest(spec: str) -> dict[str, Any]:
    """Of what comes after a name and a colon, a file with its content; and of what is shipped."""
    name, _, parameter = spec.partition(":")
    given = (parameter and _tree_digest(Path(parameter))) or parameter
    return {"spec": [name, given], "shipped": _shipped_digest()}


@cache
def engine_digest() -> str:
    """Of the simulator without its policies, the library that draws the flows, and the figures."""
    sources = source_digest("testbed.sim.scenario", "testbed.sim.world")
    # Not with what they import, which are the policies.
    files = ("testbed/sim/run.py", "testbed/sim/league/match.py")
    around = [_digest((_ROOT / file).read_bytes()) for file in files]
    return _digest(json.dumps([sources, around, np.__version__]).encode())


@cache
def source_digest(*modules: str) -> str:
    """Of the modules and of all of ours that they import, directly or not."""
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = _path(name)
        if path is None or name in found:
            continue
        found[name] = path
        todo += _imports(path)
    contents = {name: _digest(found[name].read_bytes()) for name in sorted(found)}
    return _digest(json.dumps(contents).encode())


def _imports(path: Path) -> list[str]:
    """Names that may be modules: of `from a.b import c`, both `a.b` and `a.b.c`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _path(name: str) -> Path | None:
    """The file of a module of ours; None for others and for what is no module."""
    if name.partition(".")[0] not in _OURS:
        return None
    at = _ROOT.joinpath(*name.split("."))
    return next((p for p in (at.with_suffix(".py"), at / "__init__.py") if p.is_file()), None)


@cache
def _shipped_digest() -> str:
    """Of the data files of the agent's package, the parameters of an agent without a path."""
    package = Path(agent.__file__).parent
    files = [p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    return _files_digest(package, files)


def _tree_digest(path: Path) -> str:
    """Of a file, or of a folder with all in it; empty if there is neither."""
    if path.is_file():
        return _digest(path.read_bytes())
    return _files_digest(path, [p for p in path.rglob("*") if p.is_file()]) if path.is_dir() else ""


def _files_digest(root: Path, files: list[Path]) -> str:
    contents = {str(p.relative_to(root)): _digest(p.read_bytes()) for p in sorted(files)}
    return _digest(json.dumps(contents).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
