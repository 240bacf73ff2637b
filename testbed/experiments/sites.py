"""What a page is called on a server, and what it costs where a server only acts as if.

Lives here: targets of requests. Never here: when they are sent.
"""

from __future__ import annotations

from testbed.experiments.demand import Demand, Page
from testbed.lab import pages
from testbed.load.arrivals import Plan

ITERATIONS_PER_S = 46e6
"""Of the for-loop page with its string comparison on one core: 21.7 ms a million."""

WORK_S = {"wiki-apcu": 0.014, "wiki-file": 0.0038, "loop": 0.014}
"""A wiki page by site, one core, CPU time; measured on Apache with PHP 8.2 under quota."""

STATIC_S = 0.0002


def for_apache(demand: Demand) -> Plan:
    """Targets of the Apache servers that the lab sets up."""
    target = {
        Page.LOOP: pages.loop_target,
        Page.WIKI: pages.wiki_target,
        Page.STATIC: pages.static_target,
    }
    pairs = zip(demand.page.tolist(), demand.number.tolist(), strict=True)
    queries = [target[Page(page)](number) for page, number in pairs]
    return Plan(demand.planned_s, queries, demand.period_s)


def for_embedded(demand: Demand, site: str) -> Plan:
    """Targets of `testbed.server`: wiki and static pages are so much work."""
    mean_s = {Page.WIKI: WORK_S[site], Page.STATIC: STATIC_S}
    queries = []
    for page, number, factor in zip(
        demand.page.tolist(), demand.number.tolist(), demand.factor.tolist(), strict=True
    ):
        if page == Page.LOOP:
            queries.append(pages.loop_target(number))
        else:
            queries.append(f"/?work_us={round(mean_s[Page(page)] * factor * 1e6)}")
    return Plan(demand.planned_s, queries, demand.period_s)


def mean_work_s(demand: Demand, site: str) -> float:
    """CPU seconds a request on one embedded core, over the requests of `demand`."""
    loops = demand.page == Page.LOOP
    total_s = demand.number[loops].sum() / ITERATIONS_PER_S
    for page, mean_s in ((Page.WIKI, WORK_S[site]), (Page.STATIC, STATIC_S)):
        total_s += mean_s * demand.factor[demand.page == page].sum()
    return float(total_s / len(demand))
