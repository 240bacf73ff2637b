"""MediaWiki on servers of a lab: one database, a cache a server, every page there and warm.

Slow: on a host that has not built the wiki yet, that comes first, and takes a minute or more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import cycle, islice

import pytest

from testbed.lab import pages
from testbed.lab.calibrate import calibrate
from testbed.lab.closed import Tally, ask
from testbed.lab.driver import LabError
from testbed.lab.namespaces import NamespaceLab, Namespaces
from testbed.lab.topology import Topology
from testbed.lab.warm import warm
from tests.lab.lab_here import driver, need

SITES = ("wiki-none", "wiki-memcached", "wiki-apcu", "wiki-file")
WIKIS = Topology.model_validate(
    {
        "name": "wikis",
        "balancers": {"count": 1},
        "servers": [
            {"name": site.removeprefix("wiki-"), "site": site, "cores": 0.2, "workers": 4}
            for site in SITES
        ],
    }
)
WARM_PAGES = 4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lab() -> Iterator[NamespaceLab]:
    need(WIKIS)
    with driver() as made:
        yield Namespaces(made.root, warm_pages=WARM_PAGES).up(WIKIS)


def fetched(lab: NamespaceLab, server: str, targets: list[str]) -> Tally:
    tally = Tally()
    at = lab.servers[server]
    lab.client.call(lambda: asyncio.run(ask(at.address, at.port, iter(targets), 1, tally)))
    return tally


def cpu_ms(lab: NamespaceLab, server: str) -> tuple[float, float]:
    """CPU time a warm page: the server's, the database's."""
    assert lab.database is not None
    targets = list(islice(cycle(map(pages.wiki_target, range(WARM_PAGES))), 12))
    # Once for every worker process too.
    fetched(lab, server, targets)
    before = lab.servers[server].cpu_ns(), lab.database.cpu_ns()
    tally = fetched(lab, server, targets)
    assert (tally.answered, tally.failed) == (12, 0), tally.last_error
    after = lab.servers[server].cpu_ns(), lab.database.cpu_ns()
    return (after[0] - before[0]) / 12e6, (after[1] - before[1]) / 12e6


def test_caches_cost_what_they_save(lab: NamespaceLab) -> None:
    none, memcached, apcu, file = (cpu_ms(lab, f"{s.removeprefix('wiki-')}1") for s in SITES)
    # CPU time, not time: a busy host changes it little, and these differ by two and by five.
    assert none[0] > 1.3 * memcached[0]
    assert none[0] > 1.3 * apcu[0]
    assert apcu[0] > 1.5 * file[0]
    assert none[1] > file[1]


def test_the_first_and_the_last_page_are_there_and_no_other(lab: NamespaceLab) -> None:
    there = fetched(lab, "apcu1", [pages.wiki_target(0), pages.wiki_target(pages.COUNT - 1)])
    assert there.answered == 2, there.last_error
    assert fetched(lab, "apcu1", [pages.wiki_target(pages.COUNT)]).failed == 1


def test_a_server_that_fails_pages_is_not_warm(lab: NamespaceLab) -> None:
    server = lab.servers["apcu1"]
    with pytest.raises(LabError, match=r"apcu1 fails 1 pages, as .*Page_400"):
        warm(lab.client, [server], pages.COUNT + 1)


def test_calibration_has_a_figure_for_each_server(lab: NamespaceLab) -> None:
    found = calibrate(lab, 2.0)
    assert [one.site for one in found] == list(SITES)
    for one in found:
        (server,) = one.servers
        assert server.cores == 0.2
        assert server.cpu_ms > 0
        assert server.rate_per_s == pytest.approx(one.rate_per_s)
        # What is answered is paid for by the quota, however little of it there was.
        assert server.quota_used == pytest.approx(
            server.rate_per_s * server.cpu_ms / 1e3 / server.cores
        )
        assert one.believable == (server.quota_used >= 0.95)
