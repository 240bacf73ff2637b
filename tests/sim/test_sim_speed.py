"""The benchmark of the simulator measures what it says, on few flows."""

from __future__ import annotations

import pytest

from testbed.bench import sim

pytestmark = pytest.mark.timeout(600)


def test_every_size_of_service_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim, "FLOWS", 20_000)
    rows = sim.run()
    assert [row["servers"] for row in rows] == list(sim.SERVERS)
    for row in rows:
        assert row["flows"] == pytest.approx(20_000, rel=0.05)
        assert 0 < row["least"] <= row["flows_per_cpu_s"] <= row["most"]
        assert row["with_draws"] < row["flows_per_cpu_s"]
