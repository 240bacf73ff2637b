"""The way back: which weights reach a worker, and by what name the others are refused."""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
from conftest import Child, Create
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lapped import lapped

from shm import layout as lo
from shm.errors import RegionBusy
from shm.frames import FrameRing
from shm.region import Region
from shm.weights import AHEAD_NS, AgentBlock, Refusal, WeightReader, Weights, newest_weights
from shm.worker import WorkerBlock

NOW_NS = 10**15
LIFE_NS = 10**9
BACKENDS = 3


@pytest.fixture
def region(create: Create) -> Region:
    region = create()
    for number in range(BACKENDS):
        region.add_backend(f"b{number}", f"127.0.0.1:{number + 1}", 1.0)
    return region


def publish(
    agent: AgentBlock,
    weight: list[float],
    identity: list[int] | None = None,
    written_ns: int = NOW_NS,
    expires_ns: int = NOW_NS + LIFE_NS,
) -> int:
    slots = np.arange(len(weight))
    own = agent.region.identities()[slots]
    return agent.publish(
        slots,
        own if identity is None else np.array(identity, np.uint64),
        np.array(weight),
        written_ns,
        expires_ns,
    )


def taken(found: Weights | Refusal | None) -> Weights:
    assert isinstance(found, Weights), found
    return found


def refused_as(region: Region, found: object) -> str:
    """Counts a refusal as a worker does; the one counter that rose."""
    assert isinstance(found, Refusal), found
    block = WorkerBlock(region, 0)
    block.count(found.value)
    risen = [n for n in lo.SCALARS if n.endswith("_total") and block.scalars[lo.SCALAR[n]]]
    assert len(risen) == 1
    return risen[0]


def test_every_refusal_has_a_counter_of_its_own() -> None:
    assert {refusal.value for refusal in Refusal} <= set(lo.SCALARS)
    assert len({refusal.value for refusal in Refusal}) == len(Refusal)


def test_weights_arrive_once_as_they_were_given(region: Region) -> None:
    reader = WeightReader(region)
    assert reader.poll(NOW_NS) is None
    sequence = publish(AgentBlock(region), [0.25, 1.0, 16.0])
    found = taken(reader.poll(NOW_NS + 1))
    assert found.sequence == sequence == 1
    assert found.weight[:BACKENDS].tolist() == [0.25, 1.0, 16.0]
    assert found.known.tolist() == [True] * BACKENDS + [False] * 5
    assert (found.written_ns, found.expires_ns) == (NOW_NS, NOW_NS + LIFE_NS)
    assert found.foreign == 0
    assert reader.poll(NOW_NS + 2) is None


def test_a_new_backend_gets_the_mean_of_the_others(region: Region) -> None:
    reader = WeightReader(region)
    publish(AgentBlock(region), [1.0, 2.0, 6.0])
    new = region.add_backend("new", "127.0.0.1:9", 1.0)
    found = taken(reader.poll(NOW_NS))
    assert not found.known[new.slot]
    assert found.weight[new.slot] == pytest.approx(3.0)


@pytest.mark.parametrize("extreme", [np.finfo(float).max, np.finfo(float).smallest_subnormal])
def test_the_mean_of_any_weights_is_finite_and_positive(region: Region, extreme: float) -> None:
    reader = WeightReader(region)
    publish(AgentBlock(region), [extreme] * BACKENDS)
    found = taken(reader.poll(NOW_NS))
    assert np.isfinite(found.weight).all()
    assert (found.weight > 0).all()


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), float("-inf"), 0.0, -0.0, -1.0, -5e-324]
)
@pytest.mark.parametrize("at", range(BACKENDS))
def test_one_number_that_is_no_weight_refuses_the_frame(
    region: Region, bad: float, at: int
) -> None:
    reader = WeightReader(region)
    weight = [1.0] * BACKENDS
    weight[at] = bad
    publish(AgentBlock(region), weight)
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_invalid_total"
    assert newest_weights(region) is None


def test_a_frame_for_nobody_is_invalid(region: Region) -> None:
    reader = WeightReader(region)
    publish(AgentBlock(region), [])
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_invalid_total"


@pytest.mark.parametrize(
    ("written_ns", "expires_ns"),
    [
        (NOW_NS - LIFE_NS, NOW_NS - 1),
        (NOW_NS - LIFE_NS, NOW_NS),
        (NOW_NS - LIFE_NS, 0),
        (NOW_NS + AHEAD_NS + 1, NOW_NS + 2 * AHEAD_NS),
    ],
    ids=["expired", "expires now", "never valid", "from the future"],
)
def test_weights_out_of_their_time_are_stale(
    region: Region, written_ns: int, expires_ns: int
) -> None:
    reader = WeightReader(region)
    publish(AgentBlock(region), [1.0] * BACKENDS, None, written_ns, expires_ns)
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_stale_total"


def test_weights_of_another_generation_are_foreign(region: Region) -> None:
    agent, reader = AgentBlock(region), WeightReader(region)
    own = region.generation
    region.words[lo.H_GENERATION] = own + 2
    publish(agent, [1.0] * BACKENDS)
    region.words[lo.H_GENERATION] = own
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_foreign_total"


def test_weights_for_other_backends_only_are_foreign(region: Region) -> None:
    reader = WeightReader(region)
    publish(AgentBlock(region), [1.0] * BACKENDS, identity=[101, 102, 103])
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_foreign_total"


def test_a_backend_that_left_its_slot_leaves_its_weight_too(region: Region) -> None:
    agent, reader = AgentBlock(region), WeightReader(region)
    before = region.identities()[:BACKENDS].tolist()
    region.remove_backend(1)
    assert region.add_backend("next", "127.0.0.1:9", 1.0).slot == 1
    publish(agent, [1.0, 50.0, 3.0], identity=before)
    found = taken(reader.poll(NOW_NS))
    assert found.foreign == 1
    assert found.known[:BACKENDS].tolist() == [True, False, True]
    assert found.weight[1] == pytest.approx(2.0)


def test_a_frame_that_is_always_changing_is_torn(region: Region) -> None:
    agent = AgentBlock(region)
    publish(agent, [1.0] * BACKENDS)
    reader = WeightReader(region)

    def lap() -> None:
        for _ in range(region.layout.depth):
            publish(agent, [2.0] * BACKENDS)

    reader._ring = FrameRing(
        lapped(region.u64, lap),
        region.layout.weight_frame(0),
        region.layout.weight_frame_words,
        region.layout.depth,
    )
    assert refused_as(region, reader.poll(NOW_NS)) == "frames_torn_total"


def test_a_frame_published_between_look_and_copy_is_judged_once(region: Region) -> None:
    agent = AgentBlock(region)
    publish(agent, [1.0] * BACKENDS)
    reader = WeightReader(region)
    newest = FrameRing.newest

    def newest_then_another(ring: FrameRing) -> int:
        seen = newest(ring)
        publish(agent, [2.0] * BACKENDS)
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader._ring, "newest", lambda: newest_then_another(agent._ring))
        assert taken(reader.poll(NOW_NS)).weight[0] == 2.0
    assert reader.poll(NOW_NS) is None


def test_a_refused_frame_does_not_stand_in_the_next_ones_way(region: Region) -> None:
    agent, reader = AgentBlock(region), WeightReader(region)
    publish(agent, [float("nan")] * BACKENDS)
    assert reader.poll(NOW_NS) is Refusal.INVALID
    assert reader.poll(NOW_NS) is None
    publish(agent, [4.0] * BACKENDS)
    assert taken(reader.poll(NOW_NS)).weight[0] == 4.0


AGENT = """
import sys
import numpy as np
from shm.region import Region
from shm.weights import AgentBlock
region = Region.attach(sys.argv[1])
agent = AgentBlock(region)
slots = region.active_slots()
for number in range(9):
    weight = np.full(len(slots), 1.0 + number)
    agent.publish(slots, region.identities()[slots], weight, 1, 10**18)
print("up", flush=True)
sys.stdin.read()
"""


def test_the_first_frame_of_a_restarted_agent_is_applied(region: Region, child: Child) -> None:
    reader = WeightReader(region)
    first = child(AGENT, region.service)
    assert taken(reader.poll(NOW_NS)).sequence == 9
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    publish(AgentBlock(region), [7.0] * BACKENDS)
    found = taken(reader.poll(NOW_NS))
    assert found.sequence == 10
    assert found.weight[0] == 7.0


def test_only_one_agent_at_a_time(region: Region, child: Child) -> None:
    first = child(AGENT, region.service)
    with pytest.raises(RegionBusy, match="role is taken"):
        AgentBlock(region)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    AgentBlock(region)
    attached = Region.attach(region.service)
    with pytest.raises(RegionBusy):
        AgentBlock(attached)
    attached.close()


def test_who_looks_on_sees_the_newest_frame_also_when_it_has_expired(region: Region) -> None:
    assert newest_weights(region) is None
    publish(AgentBlock(region), [2.0] * BACKENDS, expires_ns=1)
    assert taken(newest_weights(region)).weight[0] == 2.0


def test_a_frame_written_after_the_worker_looked_at_the_clock_is_not_from_the_future(
    region: Region,
) -> None:
    """A worker takes the time once and then serves several things before it polls."""
    publish(AgentBlock(region), [1.0] * BACKENDS, None, NOW_NS + 200_000)
    assert taken(WeightReader(region).poll(NOW_NS)).written_ns == NOW_NS + 200_000


def test_a_backend_that_left_takes_its_weight_out_of_the_mean_at_once(region: Region) -> None:
    """Not only when its slot is used again."""
    publish(AgentBlock(region), [1.0, 3.0, 100.0])
    region.remove_backend(2)
    found = taken(WeightReader(region).poll(NOW_NS))
    assert found.foreign == 1
    assert found.weight[2] == found.weight[5] == 2.0


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weights=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=8, max_size=8),
    gone=st.sets(st.integers(0, 7), max_size=7),
)
def test_whatever_was_written_only_weights_between_the_least_and_the_greatest_get_through(
    create: Create, weights: list[float], gone: set[int]
) -> None:
    region = create()
    for number in range(8):
        region.add_backend(f"b{number}", f"h:{number}", 1.0)
    publish(AgentBlock(region), weights)
    for slot in gone:
        region.remove_backend(slot)
    found = WeightReader(region).poll(NOW_NS)
    if all(0 < weight < math.inf for weight in weights):
        here = [weights[slot] for slot in range(8) if slot not in gone]
        assert (taken(found).weight >= min(here)).all()
        assert (taken(found).weight <= max(here)).all()
        assert taken(found).foreign == len(gone)
    else:
        assert found is Refusal.INVALID
