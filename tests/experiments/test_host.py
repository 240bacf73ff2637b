"""What the host did during a run: readings of this host, and the bounds."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from testbed.experiments.host import OTHERS_MAX, STEAL_MAX, Host, Reading, between, read

CORES = os.cpu_count() or 1
BEFORE = Reading(100.0, 50.0, None, 1.0, 0.5, 7.0, 20.0)


def after(**spent_s: float) -> Reading:
    """Ten seconds later."""
    found = {name: getattr(BEFORE, name) + value for name, value in spent_s.items()}
    return replace(BEFORE, at_s=110.0, **found)


def test_what_others_used_is_what_is_not_ours():
    host = between(BEFORE, after(busy_s=6.0, ours_s=4.0, interrupts_s=0.5, waiting_s=2.0))
    assert host.ours == pytest.approx(0.4 / CORES)
    assert host.others == pytest.approx(0.2 / CORES)
    assert host.interrupts == pytest.approx(0.05 / CORES)
    assert (host.steal, host.waiting) == pytest.approx((0.0, 0.2))
    # Ticks may have missed some of ours.
    assert between(BEFORE, after(busy_s=3.9, ours_s=4.0)).others == 0


def test_the_schedulers_time_counts_where_both_readings_have_it():
    known = replace(BEFORE, exact_s=70.0)
    later = replace(after(busy_s=6.0, ours_s=4.0), exact_s=74.2)
    assert between(known, later).others == pytest.approx(0.02 / CORES)
    for one, other in ((BEFORE, later), (known, replace(later, exact_s=None))):
        assert between(one, other).others == pytest.approx(0.2 / CORES)


def test_a_busy_host_and_a_robbed_one_are_reasons_and_a_loaded_one_is_none():
    quiet = Host(10.0, 2, ours=0.9, others=OTHERS_MAX, interrupts=0.1, steal=STEAL_MAX, waiting=1.0)
    assert quiet.why_not() == ()
    (busy,) = replace(quiet, others=0.4).why_not()
    assert busy == "the host was busy with other things: 40.0% of its CPU time, above 5%"
    (robbed,) = replace(quiet, steal=0.02).why_not()
    assert robbed == "the host lost 2.0% of its CPU time, above 1%"


def test_this_host_tells_what_it_does():
    before = read(time.process_time())
    until_s = time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    host = between(before, read(time.process_time()))
    assert host.ours * host.seconds * host.cores >= 0.3
    assert 0 <= host.others <= 1.1
    assert 0 <= host.steal <= 1.1
