"""The simulator against queueing theory: mean responses within 1%, over several seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sim_worlds import NO_LINKS, scenario

from testbed.load.sizes import Law
from testbed.sim import theory
from testbed.sim.policies import rule
from testbed.sim.run import simulate
from testbed.sim.scenario import Application, Arrivals, Resource, Scenario, Servers, Size
from testbed.stats import Interval, mean_interval

pytestmark = pytest.mark.timeout(600)

SEEDS = 8
ROOM = 4000
"""Places for waiting: more than are ever needed."""


@dataclass(frozen=True)
class Found:
    response: Interval
    lost: float


def measured(of: Scenario, name: str = "ecmp", seeds: int = SEEDS) -> Found:
    """The mean response of those served over the seeds, each seed a batch of its own."""
    runs = [simulate(of, rule(name), seed) for seed in range(seeds)]
    means = [float(run.fct_s[run.outcome == 1].mean()) for run in runs]
    return Found(
        mean_interval(means, confidence=0.999),
        float(np.mean([(r.outcome > 1).mean() for r in runs])),
    )


def one_stage(server: Servers, rate: float, flows: int, size: Size | None = None) -> Scenario:
    application = Application(stages=((Resource.CPU, size or Size(mean_s=1.0)),))
    duration_s = flows / rate
    return scenario(
        server,
        applications=(application,),
        arrivals=Arrivals(rate_per_s=rate),
        duration_s=duration_s,
        warmup_s=0.05 * duration_s,
        link_s=NO_LINKS,
    )


def agrees(found: Found, expected_s: float) -> None:
    assert found.response.estimate == pytest.approx(expected_s, rel=0.01)
    assert expected_s in found.response


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_mm1(load: float) -> None:
    of = one_stage(Servers(fifo=True, backlog=ROOM), load, 400_000)
    agrees(measured(of), theory.mm1_response_s(load, 1.0))


@pytest.mark.parametrize("cpus", [2, 8])
def test_mmc(cpus: int) -> None:
    of = one_stage(Servers(cpus=cpus, fifo=True, backlog=ROOM), 0.7 * cpus, 400_000)
    agrees(measured(of), theory.mmc_response_s(0.7 * cpus, 1.0, cpus))


def test_mmc_in_processor_sharing_has_the_same_mean() -> None:
    """With exponential sizes the order of service changes no queue length."""
    of = one_stage(Servers(cpus=4, in_service=ROOM), 2.8, 400_000)
    agrees(measured(of), theory.mmc_response_s(2.8, 1.0, 4))


@pytest.mark.parametrize(
    ("law", "cv"), [(Law.FIXED, 0.0), (Law.EXPONENTIAL, 1.0), (Law.HYPEREXPONENTIAL, 3.0)]
)
def test_mg1_processor_sharing_is_insensitive_to_the_law(law: Law, cv: float) -> None:
    of = one_stage(Servers(in_service=ROOM), 0.6, 500_000, Size(mean_s=1.0, law=law, cv=cv))
    agrees(measured(of), theory.mg1_ps_response_s(0.6, 1.0))


@pytest.mark.parametrize(("law", "cv"), [(Law.FIXED, 0.0), (Law.LOGNORMAL, 1.5)])
def test_mg1_in_order_of_arrival_is_not(law: Law, cv: float) -> None:
    of = one_stage(Servers(fifo=True, backlog=ROOM), 0.5, 500_000, Size(mean_s=1.0, law=law, cv=cv))
    agrees(measured(of), theory.mg1_response_s(0.5, 1.0, cv))


def test_stages_in_a_row_are_queues_of_their_own() -> None:
    """CPU in order of arrival, then I/O shared: each is M/M/1 (Burke, Jackson)."""
    application = Application(
        stages=((Resource.CPU, Size(mean_s=1.0)), (Resource.IO, Size(mean_s=0.8)))
    )
    of = one_stage(Servers(fifo=True, backlog=ROOM), 0.6, 400_000)
    of = of.model_copy(update={"applications": (application,)})
    agrees(measured(of), theory.mm1_response_s(0.6, 1.0) + theory.mm1_response_s(0.6, 0.8))


def test_a_random_split_makes_independent_queues() -> None:
    of = one_stage(Servers(count=5, fifo=True, backlog=ROOM), 3.0, 500_000)
    agrees(measured(of), theory.mm1_response_s(0.6, 1.0))


def test_a_bounded_queue_rejects_the_known_share() -> None:
    of = one_stage(Servers(fifo=True, backlog=4), 0.9, 400_000)
    found = measured(of)
    response_s, lost = theory.lossy_response_s(0.9, 1.0, places=5)
    agrees(found, response_s)
    assert found.lost == pytest.approx(lost, rel=0.01)


@pytest.mark.parametrize("name", ["wcmp", "lsq", "sed"])
@pytest.mark.parametrize("weight", [(2.0, 1.0), (1.0, 2.0)])
def test_the_chain_of_two_servers(name: str, weight: tuple[float, float]) -> None:
    """The solved chain and the simulator agree on a rule's response and losses."""
    chain = theory.two_servers(theory.SPLITS[name], weight=weight, places=10)
    fast, slow = (
        Servers(speed=v, in_service=1, backlog=9, weight=w)
        for v, w in zip((2.0, 1.0), weight, strict=True)
    )
    of = one_stage(fast, 3.0, 400_000).model_copy(update={"servers": (fast, slow)})
    found = measured(of, name)
    agrees(found, chain.response_s)
    assert found.lost == pytest.approx(chain.lost, abs=0.002)


# -- the formulas themselves


def test_formulas_agree_where_they_meet() -> None:
    assert theory.mmc_response_s(0.7, 1.0, 1) == pytest.approx(theory.mm1_response_s(0.7, 1.0))
    assert theory.mg1_response_s(0.7, 1.0, 1.0) == pytest.approx(theory.mm1_response_s(0.7, 1.0))
    endless, lost = theory.lossy_response_s(0.7, 1.0, places=200)
    assert endless == pytest.approx(theory.mm1_response_s(0.7, 1.0))
    assert lost < 1e-30
    # Erlang C of two: rho^2 / (1 + rho) is the chance to wait, in closed form.
    rho = 0.7
    assert theory.mmc_response_s(1.4, 1.0, 2) == pytest.approx(1.0 / (1.0 - rho * rho))


def test_the_chain_under_wcmp_is_two_bounded_queues() -> None:
    """Product form: each server alone is M/M/1 with room for Q."""
    chain = theory.two_servers(theory.wcmp, places=12, load=0.9)
    for axis, speed, rate in ((1, 2.0, 1.8), (0, 1.0, 0.9)):
        alone = (rate / speed) ** np.arange(13)
        np.testing.assert_allclose(chain.chance.sum(axis=axis), alone / alone.sum(), atol=1e-12)
    np.testing.assert_allclose(
        chain.chance, np.outer(chain.chance.sum(1), chain.chance.sum(0)), atol=1e-12
    )


def test_unseen_flows_and_wrong_weights_cost() -> None:
    """The order of Fig 2b that the paper's text states."""

    def value(name: str, observed: float = 1.0, weight: tuple[float, float] = (2, 1)) -> float:
        chain = theory.two_servers(theory.SPLITS[name], observed=observed, weight=weight)
        return chain.weighted_duration_s

    for name in ("lsq", "sed"):
        assert value(name) < value(name, 1 / 2) < value(name, 1 / 3)
        assert value(name, 1 / 2) < value("wcmp", 1 / 2)
        assert value(name, 1 / 3) < value("wcmp", 1 / 3)
    assert value("sed") < value("lsq")
    for name in ("wcmp", "sed"):
        assert value(name) < value(name, weight=(1, 2))


@pytest.mark.parametrize("load", [1.0, 1.5])
def test_an_overload_has_no_mean(load: float) -> None:
    for formula in (theory.mm1_response_s, theory.mg1_ps_response_s):
        with pytest.raises(theory.UnstableError, match="load"):
            formula(load, 1.0)
    with pytest.raises(theory.UnstableError):
        theory.mmc_response_s(2 * load, 1.0, 2)
    with pytest.raises(ValueError, match="no such chain"):
        theory.two_servers(theory.sed, observed=1.5)
