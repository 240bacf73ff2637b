"""The monitor: when it suspends a policy, when it lets it go on, and what the agent does then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from make import NOW_NS, snapshot

from agent.act.network import fresh_parameters
from agent.act.policy import Policy
from agent.agent import Agent
from agent.learn import checkpoint
from agent.observe import CLIP, FEATURES, SERVICE_FEATURES, Observation, observe
from agent.policies import SHIPPED
from agent.settings import AgentSettings, PolicySettings
from agent.trust import Envelope, Monitor, Stand, TrustSettings
from shm.snapshot import Snapshot

STEP_S = 0.25
SETTINGS = TrustSettings(trial_every_s=20.0, trial_s=4.0, settle_s=0.5, suspended_s=60.0)


def envelope(width: float) -> Envelope:
    features, service = np.full(len(FEATURES), width), np.full(len(SERVICE_FEATURES), width)
    return Envelope(-features, features, -service, service)


def seen(step: int, flows: int = 50, duration_s: float = 0.1, scale: float = 1.0) -> Observation:
    """An observation of `flows` answers since the last one, with features of size `scale`."""
    plain = observe(snapshot(4), None)
    return replace(
        plain,
        now_ns=NOW_NS + int(step * STEP_S * 1e9),
        features=np.full_like(plain.features, scale),
        service=np.full_like(plain.service, scale),
        averages=replace(plain.averages, answers=flows, duration_ns=int(flows * duration_s * 1e9)),
    )


def test_a_monitor_without_a_range_or_trials_lets_the_policy_decide():
    monitor = Monitor(TrustSettings(), None)
    assert all(monitor.judge(seen(step, scale=99.0)) is Stand.POLICY for step in range(80))


def test_strange_inputs_suspend_the_policy_and_calm_ones_bring_it_back():
    monitor = Monitor(SETTINGS, envelope(2.0))
    assert monitor.judge(seen(0, scale=9.0)) is Stand.POLICY, "a moment is not enough"
    stands = [monitor.judge(seen(step, scale=9.0)) for step in range(1, 41)]
    first = stands.index(Stand.STRANGE)
    assert first * STEP_S == pytest.approx(SETTINGS.strange_s, abs=2 * STEP_S)
    assert set(stands[first:]) == {Stand.STRANGE}
    assert monitor.outside == 1.0
    assert monitor.suspensions == 1
    back = [monitor.judge(seen(step, scale=0.1)) for step in range(41, 41 + 200)]
    calm = back.index(Stand.POLICY)
    assert calm * STEP_S == pytest.approx(SETTINGS.calm_s, abs=2 * STEP_S)


def test_a_moment_of_strangeness_starts_the_count_anew():
    monitor = Monitor(SETTINGS, envelope(2.0))
    for step in range(100):
        assert monitor.judge(seen(step, scale=9.0 if step % 4 else 0.1)).trusted


def test_a_gap_is_no_time_of_strangeness_or_calm():
    monitor = Monitor(SETTINGS, envelope(2.0))
    for step in range(0, 4000, 400):
        assert monitor.judge(seen(step, scale=9.0)).trusted or step > 4 * 400
    assert monitor.stand is Stand.STRANGE, "ten seconds at a second a step"
    monitor.judge(seen(5000, scale=0.1))
    assert monitor.judge(seen(6000, scale=0.1)) is Stand.STRANGE


def test_trials_come_at_their_times_and_last_as_long_as_they_should():
    monitor = Monitor(SETTINGS, None)
    stands = [monitor.judge(seen(step)) for step in range(4 * 60)]
    trial = [step * STEP_S for step, stand in enumerate(stands) if stand is Stand.TRIAL]
    assert trial[0] == pytest.approx(20.0, abs=0.5)
    assert sum(20.0 <= at_s < 24.5 for at_s in trial) * STEP_S == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize(("factor", "worse"), [(1.0, False), (0.9, False), (1.3, True)])
def test_a_policy_that_is_worse_than_the_heuristic_is_suspended_for_a_while(factor, worse):
    """Under noise of 10% a step; a policy as good as the heuristic or better goes on."""
    rng = np.random.default_rng(0)
    monitor = Monitor(SETTINGS, None)
    stand, stands = Stand.POLICY, []
    for step in range(int(280 / STEP_S)):
        duration_s = (0.1 if stand is Stand.TRIAL else 0.1 * factor) * rng.lognormal(0, 0.1)
        stand = monitor.judge(seen(step, duration_s=duration_s))
        stands.append(stand)
    assert (Stand.WORSE in stands) == worse
    assert monitor.excess == pytest.approx(np.log(factor), abs=0.05)
    if worse:
        first = stands.index(Stand.WORSE)
        again = next(step for step in range(first, len(stands)) if stands[step].trusted)
        assert (again - first) * STEP_S == pytest.approx(SETTINGS.suspended_s, abs=1.0)


def test_chance_suspends_hardly_ever():
    """Policy and heuristic are equal; durations of a step have a heavy tail."""
    rng = np.random.default_rng(1)
    plain = seen(0)
    judged, suspended = 0, 0
    for _ in range(40):
        monitor = Monitor(replace(SETTINGS, trial_every_s=12.0), None)
        for step in range(int(480 / STEP_S)):
            duration_ns = int(50 * 1e8 * (1.0 + rng.pareto(1.5)))
            averages = replace(plain.averages, answers=50, duration_ns=duration_ns)
            now_ns = NOW_NS + int(step * STEP_S * 1e9)
            monitor.judge(replace(plain, now_ns=now_ns, averages=averages))
        judged += monitor.trials
        suspended += monitor.suspensions
    assert judged > 900
    assert suspended <= 2


def test_a_service_without_answers_proves_nothing():
    monitor = Monitor(SETTINGS, None)
    stands = {monitor.judge(seen(step, flows=0)) for step in range(1200)}
    assert stands == {Stand.POLICY, Stand.TRIAL}
    assert monitor.excess is None


def test_an_agent_that_is_not_trusted_publishes_nothing():
    policy = Policy(PolicySettings(), fresh_parameters(1))
    monitor = Monitor(replace(SETTINGS, strange_s=0.0), envelope(1e-3))
    agent = Agent(AgentSettings(mode="frozen"), policy, monitor=monitor)
    decision = agent.step(snapshot(4))
    assert not decision.publish
    assert decision.reason == "strange inputs"


def quiet(steps: int) -> Snapshot:
    """No flow came and none is open."""
    nothing = np.zeros(4, np.int64)
    changes = {"flows": nothing, "waiting": nothing, "waiting_age_ns": nothing}
    totals = snapshot(4).totals
    now_ns = NOW_NS + int(steps * STEP_S * 1e9)
    return replace(snapshot(4, totals=totals, **changes), now_ns=now_ns)


def test_a_suspension_holds_while_nothing_is_asked():
    monitor = Monitor(replace(SETTINGS, strange_s=0.0), envelope(1e-3))
    policy = Policy(PolicySettings(), fresh_parameters(1))
    agent = Agent(AgentSettings(mode="frozen"), policy, monitor=monitor)
    agent.step(snapshot(4))
    idle = agent.step(quiet(1))
    assert idle.reason == "strange inputs"
    assert not idle.publish
    trusted = Agent(AgentSettings(mode="frozen"), policy, monitor=Monitor(SETTINGS, None))
    trusted.step(snapshot(4))
    assert trusted.step(quiet(1)).publish


def test_another_region_is_judged_anew():
    monitor = Monitor(replace(SETTINGS, strange_s=0.5), envelope(1e-3))
    policy = Policy(PolicySettings(), fresh_parameters(1))
    agent = Agent(AgentSettings(mode="frozen"), policy, monitor=monitor)
    for step in range(4):
        last = agent.step(replace(snapshot(4), now_ns=NOW_NS + int(step * STEP_S * 1e9)))
    assert last.reason == "strange inputs"
    assert agent.step(snapshot(4, generation=2)).reason == "policy"
    assert monitor.suspensions == 1


@pytest.mark.parametrize(("mode", "applied"), [("shadow", True), ("frozen", False)])
def test_what_is_not_in_force_is_not_judged(mode, applied):
    monitor = Monitor(replace(SETTINGS, trial_every_s=4.0, trial_s=1.0), envelope(1e-3))
    policy = Policy(PolicySettings(), fresh_parameters(1))
    agent = Agent(AgentSettings(mode=mode), policy, monitor=monitor)
    shots = (
        replace(snapshot(4, step), now_ns=NOW_NS + int(step * STEP_S * 1e9)) for step in range(80)
    )
    assert {agent.step(shot, applied).reason for shot in shots} == {"policy"}
    assert (monitor.trials, monitor.suspensions) == (0, 0)


def test_the_shipped_policy_has_its_ranges_and_what_lies_at_the_clip_is_outside_of_them():
    trained = Envelope.of(checkpoint.load(SHIPPED).meta["trained"])
    usual = observe(snapshot(8), None)
    assert trained.outside(usual) < TrustSettings().strange_share
    extreme = replace(
        usual,
        features=np.full_like(usual.features, CLIP),
        service=np.full_like(usual.service, CLIP),
    )
    at_clip = trained.outside(extreme)
    assert TrustSettings().strange_share < at_clip < 1.0
    # What was at the clip in training is not strange at it now.
    assert (trained.high >= CLIP).any()


def test_a_trial_is_the_heuristic():
    parameters = fresh_parameters(1)
    parameters["decide2.bias"][:3] = 1.0
    policy = Policy(PolicySettings(), parameters)
    monitor = Monitor(replace(SETTINGS, trial_every_s=0.0), None)
    agent = Agent(AgentSettings(mode="frozen"), policy, monitor=monitor)
    first = agent.step(snapshot(4))
    assert first.reason == "trial"
    assert first.offset == 1.0
    assert not first.log_factor.any()


def test_ranges_survive_a_checkpoints_header_and_foreign_ones_are_refused():
    ranges = envelope(2.0)
    again = Envelope.of(ranges.document())
    assert np.array_equal(again.low, ranges.low)
    with pytest.raises(ValueError, match="features"):
        Envelope.of({**ranges.document(), "low": [0.0]})
