"""Verdicts on backends: pure, from results, counters and the clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from config.health import Passive, SlowStart
from lbd.health.ejection import Change, Counts, Ejector
from lbd.health.ramp import ramp
from lbd.health.verdict import Verdict

S = 10**9
LIMITS = st.integers(1, 5)


# -- rise and fall


@given(LIMITS, LIMITS, st.lists(st.booleans(), max_size=60))
def test_a_verdict_changes_exactly_after_rise_or_fall_in_a_row(
    rise: int, fall: int, results: list[bool]
) -> None:
    verdict = Verdict(rise, fall)
    up, run = True, fall - 1  # as if all but one failure had been seen
    for passed in results:
        run = 0 if passed == up else run + 1
        changed = run == (fall if up else rise)
        assert verdict.take(passed) is changed
        if changed:
            up, run = not up, 0
        assert verdict.up is up


def test_one_failure_takes_down_what_never_worked_and_steady_means_settled() -> None:
    verdict = Verdict(2, 3)
    assert not verdict.steady
    assert verdict.take(False)
    assert verdict.steady
    assert not verdict.take(True)
    assert not verdict.steady
    assert verdict.take(True)
    assert verdict.steady
    assert [verdict.take(False) for _ in range(3)] == [False, False, True]


# -- slow start


@given(
    st.floats(0.1, 100), st.floats(0.1, 10), st.floats(0.01, 1), st.floats(0, 200), st.floats(0, 9)
)
def test_a_ramp_rises_from_its_floor_to_the_full_share(
    window_s: float, aggression: float, floor: float, at_s: float, more_s: float
) -> None:
    rule = SlowStart(window_s=window_s, aggression=aggression, floor=floor)
    now, later = ramp(rule, int(at_s * S)), ramp(rule, int((at_s + more_s) * S))
    assert floor <= now <= later <= 1.0
    assert ramp(rule, 0) == floor
    assert ramp(rule, int(window_s * S) + S) == 1.0


def test_aggression_is_the_curve() -> None:
    half = {a: ramp(SlowStart(window_s=10, aggression=a, floor=0.01), 5 * S) for a in (0.5, 1, 2)}
    assert half == {0.5: 0.25, 1: 0.5, 2: 0.7}


# -- ejection


class Flows:
    """Counters of `count` backends, and an ejector that looks at them every 100 ms."""

    def __init__(self, count: int, **rule: float) -> None:
        self.ejector = Ejector(Passive(**rule))  # type: ignore[arg-type]
        self.answered = [0] * count
        self.unanswered = [0] * count
        self.now_ns = 0
        self.look()

    def look(self, after_s: float = 0.1) -> list[Change]:
        self.now_ns += int(after_s * S)
        pairs = zip(self.answered, self.unanswered, strict=True)
        return self.ejector.step(
            self.now_ns, {number: Counts(a, u) for number, (a, u) in enumerate(pairs)}
        )

    def fail(self, *backends: int, times: int = 5) -> list[Change]:
        for backend in backends:
            self.unanswered[backend] += times
        return self.look()


def ejected(changes: list[Change]) -> list[int]:
    return [change.backend for change in changes if change.eject]


def test_failures_in_a_row_eject_and_an_answer_ends_the_row() -> None:
    flows = Flows(4, failures=5)
    assert flows.fail(1, times=4) == []
    flows.answered[1] += 1
    assert flows.look() == []
    assert flows.fail(1, times=4) == []
    assert ejected(flows.fail(1, times=1)) == [1]


def test_what_both_fails_and_answers_is_not_ejected() -> None:
    flows = Flows(2, failures=1, max_ejected=1)
    for _ in range(50):
        flows.answered[0] += 1
        assert flows.fail(0, times=100) == []


def test_times_double_up_to_their_bound_and_one_failure_is_enough_again() -> None:
    flows = Flows(4, failures=5, eject_s=5, eject_max_s=30)
    times_s = [flows.fail(0, times=5)[0].for_ns / S]
    for _ in range(4):
        back = flows.look(times_s[-1])
        assert back == [Change(0, eject=False)]
        times_s.append(flows.fail(0, times=1)[0].for_ns / S)
    assert times_s == [5, 10, 20, 30, 30]


def test_good_order_takes_the_steps_back() -> None:
    flows = Flows(4, failures=5, eject_s=5)
    flows.fail(0)
    flows.look(6)
    flows.fail(0, times=1)
    flows.look(11)
    flows.answered[0] += 1
    flows.look()
    flows.look(11)
    flows.look(6)
    assert flows.fail(0, times=5)[0].for_ns == 5 * S


@given(st.integers(1, 12), st.floats(0, 1), st.data())
def test_no_more_than_the_share_is_ever_ejected(
    count: int, most: float, data: st.DataObject
) -> None:
    flows = Flows(count, failures=2, eject_s=1, max_ejected=most)
    out: set[int] = set()
    for _ in range(data.draw(st.integers(1, 30))):
        failing = data.draw(st.sets(st.integers(0, count - 1)))
        for change in flows.fail(*failing, times=2):
            if change.refused:
                assert len(out) == int(most * count)
                assert change.backend not in out
            elif change.eject:
                out.add(change.backend)
            else:
                out.remove(change.backend)
        assert len(out) <= most * count
        flows.now_ns += data.draw(st.integers(0, 2 * S))


def test_a_backend_that_left_is_forgotten_and_a_new_one_starts_without_past() -> None:
    flows = Flows(2, failures=5, max_ejected=1)
    flows.unanswered = [400, 400]
    assert ejected(flows.look()) == [0, 1]
    flows.answered, flows.unanswered = [0], [0]
    flows.ejector.step(flows.now_ns, {7: Counts(0, 400)})
    assert flows.ejector.step(flows.now_ns, {7: Counts(0, 404)}) == []
    assert ejected(flows.ejector.step(flows.now_ns, {7: Counts(0, 405)})) == [7]
