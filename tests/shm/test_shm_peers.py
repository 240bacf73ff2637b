"""What other balancers tell, through the region: dispatch sees rows, the agent sums, nobody else
either."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Create

from shm import layout as lo
from shm.peers import FAILURES_TOTAL, PeerRows, PeersBlock
from shm.reader import Reader
from shm.region import Region
from shm.worker import WorkerBlock, flows_view, retire

NOW_NS = 10**12
LATER_NS = 2 * NOW_NS
SLOTS = 8
TOTALS = {"arrivals_total": 50, "answers_total": 40, "duration_ns_total": 9000}
TOTALS |= {"unanswered_total": 7, "failures_total": 6}


def told(
    block: PeersBlock, region: Region, slot: int, q: int = 5, expires_ns: int = LATER_NS
) -> None:
    """5 flows elsewhere, 2 of them waiting since 1,000 and 3,000 ns before NOW_NS."""
    flows = [0] * SLOTS
    flows[slot] = q
    waits = np.zeros((2, SLOTS), dtype=np.int64)
    waits[:, slot] = (2, 2 * NOW_NS - 4000)
    totals = np.zeros((len(lo.PEER_TOTALS), SLOTS), dtype=np.int64)
    totals[:, slot] = [TOTALS[name] for name in lo.PEER_TOTALS]
    block.show(flows, expires_ns)
    block.publish(region.identities().copy(), waits, totals, NOW_NS)


def own(region: Region, slot: int) -> WorkerBlock:
    block = WorkerBlock(region, 0)
    block.adopt(slot, int(region.identities()[slot]))
    for row, count in (("flows", 3), ("busy", 2)):
        block.floats[row][slot] = float(count)
    for waiting, start_ns in (("waiting", "waiting_start_ns"), ("exchanges", "exchanges_start_ns")):
        block.rows[waiting][slot] = 1
        block.rows[start_ns][slot] = NOW_NS - 100
    for row in ("flows_total", "first_byte_total", "exchanges_total", "exchanges_answered_total"):
        block.rows[row][slot] = 10
    block.rows["backend_reset_total"][slot] = 1
    block.publish(NOW_NS)
    return block


@pytest.mark.parametrize("exchanges", [0, 1])
def test_a_snapshot_has_the_others_where_that_is_asked_for(create: Create, exchanges: int) -> None:
    region = create(slots=SLOTS, peers=1, exchanges=exchanges)
    slot = region.add_backend("b", "h:1", 1.0).slot
    own(region, slot)
    told(PeersBlock(region), region, slot)
    reader = Reader(region)
    alone, all_of = reader.snapshot(NOW_NS), reader.snapshot(NOW_NS, peers=True)

    assert alone.flows.tolist() == [3]
    assert alone.waiting_age_ns.tolist() == [100]
    assert FAILURES_TOTAL not in alone.totals
    if exchanges:
        assert all_of.exchanges is not None
        q, waiting = all_of.exchanges.busy, all_of.exchanges.waiting
        age_ns, own_q = all_of.exchanges.waiting_age_ns, 2
        assert (all_of.flows.tolist(), all_of.waiting.tolist()) == ([3], [1])
    else:
        q, waiting, age_ns, own_q = all_of.flows, all_of.waiting, all_of.waiting_age_ns, 3
    assert (q.tolist(), waiting.tolist(), age_ns.tolist()) == ([own_q + 5], [3], [4100])
    for name, row in lo.PEER_SOURCES[exchanges].items():
        if name in TOTALS:
            assert all_of.totals[row].tolist() == [int(alone.totals[row][0]) + TOTALS[name]], row
    assert all_of.totals[FAILURES_TOTAL].tolist() == [6]
    assert all_of.totals["backend_reset_total"].tolist() == [1]
    assert reader.counters()[lo.ROW["flows"], slot] == 3


def test_what_expires_counts_no_more_but_for_the_totals(create: Create) -> None:
    region = create(slots=SLOTS, peers=1)
    slot = region.add_backend("b", "h:1", 1.0).slot
    told(PeersBlock(region), region, slot, expires_ns=NOW_NS + 5)
    reader, rows = Reader(region), PeerRows(region)
    assert rows.heard(NOW_NS + 4)
    assert reader.snapshot(NOW_NS + 4, peers=True).flows.tolist() == [5]
    assert not rows.heard(NOW_NS + 5)
    seen = reader.snapshot(NOW_NS + 5, peers=True)
    assert (seen.flows.tolist(), seen.waiting.tolist()) == ([0], [0])
    assert seen.waiting_age_ns.tolist() == [0]
    assert seen.totals["flows_total"].tolist() == [50]


def test_dispatch_sees_the_sums_live(create: Create) -> None:
    region = create(slots=SLOTS, peers=1)
    slot = region.add_backend("b", "h:1", 1.0).slot
    rows, block = PeerRows(region), PeersBlock(region)
    assert not rows.heard(NOW_NS)
    for q in (5, 8):
        told(block, region, slot, q=q)
        assert rows.q.tolist() == [float(q), *[0.0] * (SLOTS - 1)]
    block.show([9] + [0] * (SLOTS - 1), LATER_NS)
    assert rows.q[slot] == 9.0
    assert Reader(region).snapshot(NOW_NS, peers=True).flows.tolist() == [9]
    assert rows.waiting[slot] == 2
    assert 2 * NOW_NS - rows.waiting_start_ns[slot] == 4000
    assert not flows_view(region).any()


def test_the_next_user_of_a_slot_has_nothing_of_the_last_one(create: Create) -> None:
    region = create(slots=SLOTS, peers=1)
    slot = region.add_backend("b", "h:1", 1.0).slot
    block, reader = PeersBlock(region), Reader(region)
    told(block, region, slot)
    assert reader.snapshot(NOW_NS, peers=True).flows.tolist() == [5]
    region.remove_backend(slot)
    assert region.add_backend("c", "h:2", 1.0).slot == slot
    assert not PeerRows(region).q.any()
    seen = reader.snapshot(NOW_NS, peers=True)
    assert (seen.flows.tolist(), seen.totals["flows_total"].tolist()) == ([0], [0])
    told(block, region, slot)
    assert reader.snapshot(NOW_NS, peers=True).flows.tolist() == [5]


def test_totals_stay_while_a_frame_cannot_be_had(create: Create) -> None:
    region = create(slots=SLOTS, peers=1, depth=2)
    slot = region.add_backend("b", "h:1", 1.0).slot
    reader = Reader(region)
    told(PeersBlock(region), region, slot)
    assert reader.snapshot(NOW_NS, peers=True).totals["flows_total"].tolist() == [50]
    for index in range(2):
        region.words[region.layout.peer_frame(index)] = 0
    assert reader.snapshot(NOW_NS, peers=True).totals["flows_total"].tolist() == [50]


def test_a_region_without_peers_is_read_all_the_same(create: Create) -> None:
    region = create(slots=SLOTS)
    slot = region.add_backend("b", "h:1", 1.0).slot
    own(region, slot)
    seen = Reader(region).snapshot(NOW_NS, peers=True)
    assert seen.flows.tolist() == [3]
    assert FAILURES_TOTAL not in seen.totals
    attached = Region.attach(region.service)
    assert attached.layout == region.layout
    attached.close()


# -- what a balancer tells is read by the supervisor


def test_published_rows_are_those_of_whole_frames_dead_workers_included(create: Create) -> None:
    region = create(slots=SLOTS)
    slot = region.add_backend("b", "h:1", 1.0).slot
    reader = Reader(region)
    rows = ("waiting", "waiting_start_ns", "first_byte_total")

    def seen() -> list[int]:
        found = reader.published(rows)
        assert found is not None
        return found[:, slot].tolist()

    assert seen() == [0, 0, 0]
    first = own(region, slot)
    first.rows["waiting"][slot] = 99  # not published
    second = WorkerBlock(region, 1)
    second.adopt(slot, int(region.identities()[slot]))
    second.rows["first_byte_total"][slot] = 4
    second.publish(NOW_NS)
    assert seen() == [1, NOW_NS - 100, 14]
    retire(region, 0)
    assert seen() == [0, 0, 14]
    region.words[lo.H_EPOCH] += 1
    assert reader.published(rows) is None
    region.words[lo.H_EPOCH] += 1
    region.remove_backend(slot)
    region.add_backend("c", "h:2", 1.0)
    assert seen() == [0, 0, 0]
