"""What outdates a run that was played, and what does not."""

from __future__ import annotations

import dataclasses

import league_suite
import pytest

from testbed.sim import policies
from testbed.sim.league import content
from testbed.sim.league.standings import learned


def digest(**changes: object) -> str:
    return content.scenario_digest(league_suite.scenario(**changes))


def test_names_and_kinds_are_no_content():
    assert digest(name="other", kind="another") == digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"arrivals": {"load": 0.81}},
        {"servers": [{"count": 3, "speed": 1.01}]},
        {"events": [{"at_s": 1, "server": 0, "kind": "fail"}]},
        {"timeout_s": 39.0},
    ],
)
def test_all_else_of_a_scenario_is(changes):
    assert digest(**changes) != digest()


def test_a_trace_counts_by_what_is_in_it(tmp_path):
    trace = tmp_path / "trace.tsv"
    arrivals = {"rate_per_s": 10.0, "trace": str(trace)}
    trace.write_text("0.1\t/a\n")
    before = digest(arrivals=arrivals)
    copy = tmp_path / "copy.tsv"
    copy.write_text("0.1\t/a\n")
    assert digest(arrivals={**arrivals, "trace": str(copy)}) == before
    assert digest(arrivals={"rate_per_s": 10.0}) != before
    trace.write_text("0.2\t/a\n")
    assert digest(arrivals=arrivals) != before


def test_a_rule_counts_by_its_constants_not_by_its_spelling():
    assert content.rule_digest("ewma") == content.rule_digest("ewma:200")
    rules = [name for name in policies.names() if not learned(name)]
    rules += ["ewma:50", "ewma:2s", "awcmp:0.5,0.1", "awcmp:0.5,0.2"]
    assert len({content.rule_digest(name) for name in rules}) == len(rules)


def test_a_seed_makes_another_run():
    assert content.key("s", "r", 1) != content.key("s", "r", 2)


def test_parameters_of_an_agent_count_by_their_content(tmp_path, monkeypatch):
    stepped = dataclasses.replace(policies.rule("sed"), controller=lambda world, balancer, seed: 0)
    monkeypatch.setattr(content, "rule", lambda spec: stepped)
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "actor").write_bytes(b"1")
    before = content.rule_digest(f"agent:{folder}")
    assert content.rule_digest(f"agent:{folder}") == before
    copy = folder.rename(tmp_path / "moved")
    assert content.rule_digest(f"agent:{copy}") == before
    (copy / "actor").write_bytes(b"2")
    assert content.rule_digest(f"agent:{copy}") != before
    assert content.rule_digest(f"agent:{copy / 'actor'}") != before
    assert content.rule_digest("agent:greedy") != content.rule_digest("agent:cautious")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A package where `top` imports `middle`, which imports `base` inside a function."""
    sources = {
        "top.py": "from testbed.part import middle",
        "part/__init__.py": "",
        "part/middle.py": "def f():\n    import testbed.base",
        "base.py": "import math",
        "aside.py": "from testbed import top",
    }
    for name, text in sources.items():
        path = tmp_path / "testbed" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    monkeypatch.setattr(content, "_ROOT", tmp_path)
    content.source_digest.cache_clear()
    yield tmp_path / "testbed"
    content.source_digest.cache_clear()


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("top.py", True),
        ("part/__init__.py", True),
        ("part/middle.py", True),
        ("base.py", True),
        ("aside.py", False),
    ],
)
def test_source_counts_with_all_that_it_imports(tree, changed, counts):
    before = content.source_digest("testbed.top")
    with (tree / changed).open("a") as file:
        file.write("\nX = 1\n")
    content.source_digest.cache_clear()
    assert (content.source_digest("testbed.top") != before) == counts


def test_the_engine_knows_its_loops_and_not_the_agents(monkeypatch):
    opened: list[str] = []
    imports = content._imports

    def seen(path):
        opened.append(path.as_posix())
        return imports(path)

    monkeypatch.setattr(content, "_imports", seen)
    content.source_digest.cache_clear()
    content.source_digest("testbed.sim.scenario", "testbed.sim.world")
    content.source_digest.cache_clear()
    ends = ["sim/compiled/kernel.py", "sim/workload.py", "load/sizes.py", "dispatch/maglev.py"]
    assert all(any(path.endswith(end) for path in opened) for end in ends)
    assert not any("/agent/" in path for path in opened)


def test_where_the_command_runs_is_no_content(tmp_path, monkeypatch):
    before = content.rule_digest("awcmp")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anything").write_text("new")
    assert content.rule_digest("awcmp") == before
