"""Who is believed, and what the sums are: pure, against plain dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.peers.known import Peer, Refusal
from lbd.peers.sums import Sums
from lbd.wire.peers import WORDS, Part, Told, pack_figures, pack_keys

NOW_NS = 10**15
MS = 10**6
SLOTS = 6
KEYS = (11, 22, 33, 44)
SLOT_OF = {11: 0, 22: 3, 44: 5}
"""33 is of no backend here."""

Row = tuple[int, int, int, int]
"""q, waiting, age_ns, answers."""


def told_rows(told: Sequence[tuple[int, Row]]) -> Part:
    waiting = [row[1] for _, row in told]
    words = [[row[2], row[3], row[3], 2 * row[3], 0, 0] for _, row in told]
    columns = np.array(words, dtype=np.int64).reshape(len(told), WORDS).T
    return Part(
        pack_keys([key for key, _ in told]),
        tuple(row[0] for _, row in told),
        pack_figures(np.array(waiting, dtype=np.int64), columns),
    )


def tell(told: Mapping[int, Row], sequence: int = 1, sender: int = 5, part: int = 0) -> Told:
    return Told(sender, sequence, 1, part, part + 1, False, told_rows(list(told.items())))


def sums() -> Sums:
    made = Sums(SLOTS)
    made.follow(SLOT_OF, np.arange(SLOTS))
    return made


def hear(of: Sums, balancer: str, told: Told, now_ns: int = NOW_NS) -> None:
    of.hear(balancer, told, now_ns)
    of.settle()


def nothing(of: Sums) -> bool:
    return not any(of.q) and not of.waits.any()


def test_flows_of_all_are_summed_by_the_backends_here() -> None:
    one = sums()
    hear(one, "a", tell({11: (3, 0, 0, 0), 33: (9, 0, 0, 0), 44: (1, 0, 0, 0)}))
    hear(one, "b", tell({44: (4, 0, 0, 0), 22: (2, 0, 0, 0)}))
    assert one.q == [3, 0, 0, 2, 0, 5]
    hear(one, "a", tell({11: (1, 0, 0, 0), 33: (9, 0, 0, 0), 44: (0, 0, 0, 0)}))
    assert one.q == [1, 0, 0, 2, 0, 4]
    one.forget("b")
    assert one.q == [1, 0, 0, 0, 0, 0]
    one.forget("a")
    assert nothing(one)


def test_what_waits_grows_older_by_the_clock_here() -> None:
    one = sums()
    hear(one, "a", tell({11: (2, 2, 30 * MS, 0)}))
    hear(one, "b", tell({11: (1, 1, 5 * MS, 0)}), NOW_NS + MS)
    waiting, start_ns = one.waits[:, 0].tolist()
    assert waiting == 3
    later_ns = NOW_NS + 10 * MS
    assert np.int64(waiting) * later_ns - start_ns == (30 + 2 * 10 + 5 + 9) * MS


def test_totals_grow_from_when_a_balancer_was_first_heard() -> None:
    one = sums()
    hear(one, "a", tell({11: (0, 0, 0, 1_000_000)}))
    assert not one.totals.any()
    hear(one, "a", tell({11: (0, 0, 0, 1_000_007)}))
    assert one.totals[:, 0].tolist() == [7, 7, 14, 0, 0]
    one.forget("a")
    hear(one, "a", tell({11: (0, 0, 0, 5_000_000)}))
    hear(one, "a", tell({11: (0, 0, 0, 5_000_001)}))
    assert one.totals[0, 0] == 8
    # It was taken out there and put back.
    hear(one, "a", tell({11: (0, 0, 0, 2)}))
    hear(one, "a", tell({11: (0, 0, 0, 4)}))
    assert one.totals[0, 0] == 10


def test_a_slot_of_another_user_begins_anew_and_the_others_go_on() -> None:
    one = sums()
    hear(one, "a", tell({11: (3, 1, MS, 10), 33: (7, 0, 0, 10)}))
    hear(one, "a", tell({11: (3, 1, MS, 15), 33: (7, 0, 0, 15)}))
    one.follow({11: 0, 33: 3}, np.array([3]))
    assert one.q == [3, 0, 0, 7, 0, 0]
    assert one.totals[0].tolist() == [5, 0, 0, 0, 0, 0]
    hear(one, "a", tell({11: (3, 1, MS, 16), 33: (8, 0, 0, 17)}))
    assert one.q == [3, 0, 0, 8, 0, 0]
    assert one.totals[0].tolist() == [6, 0, 0, 2, 0, 0]
    one.follow({33: 0}, np.array([0]))
    assert one.q == [8, 0, 0, 0, 0, 0]
    one.forget("a")
    assert nothing(one)


def test_parts_are_told_apart_and_end_with_who_told_them() -> None:
    one = sums()
    hear(one, "a", tell({11: (1, 0, 0, 0)}, part=0))
    hear(one, "a", tell({22: (2, 0, 0, 0)}, part=1))
    assert one.q == [1, 0, 0, 2, 0, 0]
    # Fewer backends there: the second part is told no more.
    hear(one, "a", tell({22: (4, 0, 0, 0)}, part=0))
    assert one.q == [0, 0, 0, 4, 0, 0]


def test_of_a_backend_that_is_told_twice_the_first_row_counts() -> None:
    one = sums()
    twice = Told(5, 1, 1, 0, 1, False, told_rows([(11, (3, 1, 0, 0)), (11, (4, 2, 0, 0))]))
    for _ in range(2):
        hear(one, "a", twice)
        assert (one.q[0], one.waits[0, 0]) == (3, 1)
    one.forget("a")
    assert nothing(one)


def test_q_counts_at_once_and_the_rest_when_it_is_settled() -> None:
    one = sums()
    one.hear("a", tell({11: (3, 2, 0, 10)}), NOW_NS)
    one.settle()
    one.hear("a", tell({11: (4, 3, 0, 15)}), NOW_NS)
    assert (one.q[0], one.waits[0, 0], one.totals[0, 0]) == (4, 2, 0)
    one.settle()
    assert (one.q[0], one.waits[0, 0], one.totals[0, 0]) == (4, 3, 5)
    # What was not settled before a balancer fell silent is not lost.
    one.hear("a", tell({11: (4, 3, 0, 18)}), NOW_NS)
    one.forget("a")
    assert one.totals[0, 0] == 8
    assert nothing(one)


@given(st.data())
def test_any_sequence_of_events_against_dictionaries(data: st.DataObject) -> None:
    """What each told last; totals by differences; backends that come and go."""
    one, slot_of = sums(), dict(SLOT_OF)
    last: dict[str, dict[int, Row]] = {}
    grown: Counter[int] = Counter()  # by slot
    number = st.integers(0, 1000)
    told = st.dictionaries(st.sampled_from(KEYS), st.tuples(number, number, number, number))
    for _ in range(data.draw(st.integers(1, 15))):
        balancer = data.draw(st.sampled_from("ab"))
        event = data.draw(st.sampled_from(["hear", "hear", "hear", "forget", "follow"]))
        if event == "forget":
            one.forget(balancer)
            last.pop(balancer, None)
        elif event == "follow":
            slots = data.draw(st.permutations(range(SLOTS)))
            former = {slot: key for key, slot in slot_of.items()}
            slot_of = dict(zip(data.draw(st.sets(st.sampled_from(KEYS))), slots, strict=False))
            now = {slot: key for key, slot in slot_of.items()}
            fresh = [slot for slot in range(SLOTS) if former.get(slot) != now.get(slot)]
            for slot in fresh:
                del grown[slot]
            one.follow(slot_of, np.array(fresh, dtype=np.int64))
        else:
            what = data.draw(told)
            before = last.get(balancer, {})
            hear(one, balancer, tell(what))
            if list(what) == list(before):
                for key, slot in slot_of.items():
                    grown[slot] += max(0, what[key][3] - before[key][3]) if key in what else 0
            last[balancer] = what
        for key, slot in slot_of.items():
            now = [balancer.get(key, (0, 0, 0, 0)) for balancer in last.values()]
            assert one.q[slot] == sum(row[0] for row in now)
            assert one.waits[0, slot] == sum(row[1] for row in now)
        assert one.totals[0].tolist() == [grown[slot] for slot in range(SLOTS)]
        unused = [slot for slot in range(SLOTS) if slot not in slot_of.values()]
        assert not any(one.q[slot] for slot in unused)
        assert not one.waits[:, unused].any()


# -- whom to believe


def test_old_and_reordered_ones_are_refused_and_losses_counted() -> None:
    peer = Peer("10.0.0.2:7946")
    assert peer.hear(tell({}, 3), NOW_NS) is None
    assert peer.hear(tell({}, 3), NOW_NS) is Refusal.OLD
    assert peer.hear(tell({}, 2), NOW_NS) is Refusal.OLD
    assert peer.hear(tell({}, 3, part=1), NOW_NS) is None
    assert peer.hear(tell({}, 7), NOW_NS + 1) is None
    assert (peer.received_total, peer.lost_total, peer.heard_ns) == (3, 3, NOW_NS + 1)


def test_a_later_life_takes_the_place_of_an_earlier_one() -> None:
    peer = Peer("10.0.0.2:7946")
    assert peer.hear(tell({}, 900, sender=5), NOW_NS) is None
    assert peer.hear(tell({}, 1, sender=6), NOW_NS) is None
    assert peer.hear(tell({}, 901, sender=5), NOW_NS) is Refusal.OLD
    assert peer.lost_total == 0
    # Clocks may be set back: once it is silent, any life is a new one.
    assert peer.silent(NOW_NS + 201 * MS, 200 * MS)
    assert peer.hear(tell({}, 1, sender=4), NOW_NS) is None


def test_silence_is_found_once_and_ends_with_a_word() -> None:
    peer = Peer("10.0.0.2:7946")
    assert not peer.silent(NOW_NS, 200 * MS)
    peer.hear(tell({}, 3), NOW_NS)
    assert peer.up
    assert not peer.silent(NOW_NS + 200 * MS, 200 * MS)
    assert peer.silent(NOW_NS + 201 * MS, 200 * MS)
    assert not peer.up
    assert not peer.silent(NOW_NS + 900 * MS, 200 * MS)
    assert peer.hear(tell({}, 50), NOW_NS + 1000 * MS) is None
    assert peer.up
    assert peer.lost_total == 0


@pytest.mark.parametrize("balancers", [0, 1, 3])
def test_sums_stay_exact_where_numbers_are_large(balancers: int) -> None:
    one = sums()
    large = (2**32 - 1, 2**32 - 1, 2**63 - 1, 2**61)
    for number in range(balancers):
        hear(one, str(number), tell({11: large}))
    assert one.q[0] == balancers * (2**32 - 1)
    for number in range(balancers):
        one.forget(str(number))
    assert nothing(one)
