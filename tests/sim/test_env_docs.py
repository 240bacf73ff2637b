"""The example of docs/environments.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

from agent.observe import FEATURE_COUNT, SERVICE_COUNT
from agent.settings import ACTIONS

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(example.strip().splitlines()) <= 10
    exec(compile(example, str(PAGE), "exec"), {})
    assert re.fullmatch(r"mean \d+ ms, p99 \d+ ms\n", capsys.readouterr().out)


def test_the_sizes_are_those_of_the_agent():
    text = PAGE.read_text()
    for size in (f"(max, {FEATURE_COUNT})", f"({SERVICE_COUNT},)", f"(max, {len(ACTIONS)})"):
        assert size in text
