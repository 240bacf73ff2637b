"""The comparison on fresh scenarios: pairs, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sim_worlds import scenario

from testbed import cli
from testbed.sim.scenario import Arrivals, Scenario, Servers
from testbed.train import fresh

pytestmark = pytest.mark.timeout(600)


def place(number: int) -> Scenario:
    assert number >= fresh.FRESH_FROM
    return scenario(
        Servers(count=2), Servers(speed=3.0), arrivals=Arrivals(load=0.7), duration_s=30.0
    )


def test_every_policy_has_a_row_beside_the_first(monkeypatch, capsys) -> None:
    monkeypatch.setattr("testbed.train.validate.scenario", place)
    # In this process: what is replaced here would not be there in another.
    monkeypatch.setattr(fresh, "ProcessPoolExecutor", ThreadPoolExecutor)
    arguments = ["fresh", "--policies", "agent-watched,ewma,sed-global", "--scenarios", "2"]
    assert cli.main([*arguments, "--jobs", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "agent-watched",
        "ewma",
        "sed-global",
    ]
    assert "1.000 (1.000 to 1.000)" in rows[-1], "the reference beside itself"


def test_differences_are_paired() -> None:
    found = {"a": np.log([1.0, 4.0]), "b": np.log([1.1, 4.4])}
    assert fresh.table(["a", "b"], found)[-1].endswith("1.100 (1.100 to 1.100) |")


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--scenarios", "1"], "2 at least"), (["--policies", "no"], "no rule")]
)
def test_what_cannot_be_compared_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        cli.main(["fresh", *arguments])
