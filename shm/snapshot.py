"""What a reader sees of a region at one moment, summed over the workers.

Lives here: the plain value that the agent, the metrics and the simulator share.
Never here: pointers into shared memory; every array is a copy that its owner may keep.
Upstream: `shm.region` (live) or a simulator. Downstream: `agent.observe`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Reservoir samples of N backends, up to K each.

    `t_ns` (N, K) is when the sample was taken, on CLOCK_MONOTONIC; 0 marks an empty slot, which is
    not a sample. `value_ns` (N, K) is the sampled duration in nanoseconds.
    """

    t_ns: Words
    value_ns: Words


@dataclass(frozen=True)
class Exchanges:
    """What is told apart within the flows: a client's question, a server's answer. N backends.

    busy (N,): flows that are new or wait for an answer: q of the dispatch rule.
    waiting (N,), waiting_age_ns (N,): the exchanges without a first byte in answer, and the sum of
    their ages since the first byte of the question.
    latency: first byte of the question to first byte of the answer.
    """

    busy: Ints
    waiting: Ints
    waiting_age_ns: Ints
    latency: Samples


@dataclass(frozen=True)
class Snapshot:
    """One service at `now_ns`. Rows of all arrays are the active backends in slot order.

    slots (N,): position in the region. identity (N,): never used twice in a region's life; a slot
    that is used again has another identity.
    flows (N,): flows in progress, q of the dispatch rule.
    waiting (N,): those of them that are connected and still without a first server byte.
    waiting_age_ns (N,): the sum of these flows' ages since their connection was established.
    totals: cumulative counters by name, (N,) each; the names are `shm.layout.TOTALS`, and
    `shm.peers.FAILURES_TOTAL` where other balancers are counted.
    duration: connection established to first server byte. fct: accepted to closed, successes only.
    interarrival: (1, K), between two accepted flows of the service.
    exchanges: where the service counts them; None where q means flows.
    """

    now_ns: int
    generation: int
    slots: Ints
    identity: Words
    flows: Ints
    waiting: Ints
    waiting_age_ns: Ints
    totals: dict[str, Ints]
    duration: Samples
    fct: Samples
    interarrival: Samples
    exchanges: Exchanges | None = None
