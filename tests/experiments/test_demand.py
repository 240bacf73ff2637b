"""What is asked for: rates, shares, seeds, recorded traces; and its targets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.experiments.capacity import Capacities
from testbed.experiments.demand import RATES_PER_S, Page, demand, rate_at
from testbed.experiments.schema import Day, Loop, Trace
from testbed.experiments.season import Ground, embedded_capacity, rate_per_s
from testbed.experiments.sites import for_apache, for_embedded, mean_work_s
from testbed.lab import pages
from testbed.lab.topology import find, load_topology
from testbed.load.trace import TraceError

LOOP = Loop(kind="loop", load=0.5)


def test_a_loop_is_poisson_with_exponential_iterations_and_belongs_to_its_seed():
    asked = demand(LOOP, 200.0, 100.0, 1)
    assert len(asked) == pytest.approx(20_000, abs=5 * 142)
    gaps_s = np.diff(asked.planned_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1, rel=0.05)
    assert asked.number.mean() == pytest.approx(LOOP.iterations, rel=0.04)
    assert asked.number.std() == pytest.approx(LOOP.iterations, rel=0.06)
    again = demand(LOOP, 200.0, 100.0, 1)
    assert np.array_equal(again.planned_s, asked.planned_s)
    assert np.array_equal(again.number, asked.number)
    assert not np.array_equal(demand(LOOP, 200.0, 100.0, 2).planned_s[:50], asked.planned_s[:50])


def test_a_day_rises_and_falls_as_wikipedia_did():
    asked = demand(Day(kind="day", load=0.5, to_h=24.0), 500.0, 240.0, 1)
    hours = np.bincount((asked.planned_s / 10).astype(int), minlength=24) / 10
    expected = np.array([rate_at(h + 0.5) for h in range(24)]) / RATES_PER_S[0] * 500.0
    np.testing.assert_allclose(hours, expected, rtol=0.08)
    wiki = asked.page == Page.WIKI
    assert wiki.mean() == pytest.approx(0.44, abs=0.01)
    assert set(np.unique(asked.page)) == {Page.WIKI, Page.STATIC}
    counts = np.bincount(asked.number[wiki], minlength=pages.COUNT)
    assert len(counts) == pages.COUNT
    assert counts[:10].mean() > 3 * counts[-200:].mean()


def test_an_hour_alone_has_that_hours_rate():
    asked = demand(Day(kind="day", load=0.5, from_h=8.0), 796.0, 30.0, 1)
    assert len(asked) / 30 == pytest.approx(519, rel=0.04)


@given(hour=st.floats(0, 48))
def test_every_hour_has_a_rate_between_the_known_ones(hour):
    assert min(RATES_PER_S) <= rate_at(hour) <= max(RATES_PER_S)
    assert rate_at(hour) == pytest.approx(rate_at(hour + 24))


def test_a_recorded_trace_is_replayed_at_another_rate_and_size():
    traffic = Trace(kind="trace", file=Path("poisson_for_loop.csv"), load=0.5, iterations_scale=0.1)
    asked = demand(traffic, 100.0, 10.0, 1)
    assert len(asked) == pytest.approx(1000, rel=0.15)
    assert set(asked.page.tolist()) == {Page.LOOP}
    assert asked.number[0] == round(6931149 * 0.1)


def test_recorded_pages_are_pages_of_ours(tmp_path):
    path = tmp_path / "trace.wb"
    urls = ["/wiki/A", "/w/index.php?title=B", "/skins/a.css", "/wiki/A"]
    path.write_text(
        "".join(f"{n} {n}.0 http://en.wikipedia.org{u} -\n" for n, u in enumerate(urls))
    )
    traffic = Trace(kind="trace", file=path, format="wikibench", rate_per_s=4.0)
    asked = demand(traffic, 4.0, 1.0, 1)
    # The first request comes one gap after the start: three of four are within the second.
    assert [Page(page) for page in asked.page] == [Page.WIKI, Page.WIKI, Page.STATIC]
    again = demand(traffic, 4.0, 3.0, 1)
    assert again.number[0] == again.number[3]
    assert all(0 <= number < pages.COUNT for number in again.number)


def test_a_loop_without_iterations_is_named(tmp_path):
    path = tmp_path / "trace.tsv"
    path.write_text("time\tquery\n1\t/dummy.php/?n=x\n2\t/dummy.php/?n=1\n")
    with pytest.raises(TraceError, match="n=x"):
        demand(Trace(kind="trace", file=path, rate_per_s=1.0), 1.0, 5.0, 1)


def test_targets_of_apache_and_of_servers_that_act_as_if():
    asked = demand(Day(kind="day", load=0.5), 50.0, 10.0, 1)
    apache, embedded = for_apache(asked), for_embedded(asked, "wiki-apcu")
    assert len(apache) == len(embedded) == len(asked)
    for page, real, acted in zip(asked.page, apache.queries, embedded.queries, strict=True):
        assert real.startswith("/wiki/index.php/Page_" if page == Page.WIKI else "/static/")
        assert acted.startswith("/?work_us=")
    work_s = sum(int(query.partition("=")[2]) for query in embedded.queries) / 1e6
    assert work_s / len(asked) == pytest.approx(mean_work_s(asked, "wiki-apcu"), rel=0.001)
    loops = demand(LOOP, 50.0, 1.0, 1)
    assert for_apache(loops).queries == for_embedded(loops, "loop").queries


def test_a_load_is_a_share_of_what_the_servers_can_do():
    topology = load_topology(find("moderate"))
    ground = Ground("loopback", lambda *_: topology, SimpleNamespace, embedded_capacity)
    case = SimpleNamespace(traffic=LOOP, site="loop", title="half")
    # One core in all, 8 ms a request.
    assert rate_per_s(case, topology, ground) == pytest.approx(62.5, rel=0.02)
    fixed = SimpleNamespace(traffic=Loop(kind="loop", rate_per_s=9.0), site="loop", title="fixed")
    assert rate_per_s(fixed, topology, ground) == 9.0


def test_what_servers_can_do_of_a_mix_is_measured_page_by_page_and_once(tmp_path):
    topology = load_topology(find("moderate"))
    rates = {"loop": 100.0, "static": 4000.0, "wiki-apcu": 70.0}
    measured = []

    def measure(serving):
        (site,) = {server.site for server in serving.servers}
        measured.append(site)
        return {"rate_per_s": rates[site]}

    path = tmp_path / "out" / "capacity.json"
    capacities = Capacities(path, measure, {})
    mix = demand(Day(kind="day", load=0.5), 100.0, 100.0, 1)
    wiki = float((mix.page == Page.WIKI).mean())
    expected = 1 / (wiki / 70 + (1 - wiki) / 4000)
    assert capacities.of(topology, "wiki-apcu", mix) == pytest.approx(expected)
    loops = demand(Loop(kind="loop", load=0.5, iterations=736_000), 100.0, 100.0, 1)
    assert capacities.of(topology, "loop", loops) == pytest.approx(50.0, rel=0.03)
    again = Capacities(path, measure, {"loop": 10.0})
    assert again.of(topology, "wiki-apcu", mix) == pytest.approx(expected)
    assert again.of(topology, "loop", loops) == pytest.approx(5.0, rel=0.03)
    assert measured == ["wiki-apcu", "static", "loop"]
