"""What a balancer of the papers sees: one Snapshot of a fixed number of servers, as a flat vector.

Lives here: the features and the durations that rewards are made of. Never here: networks, memory.
Source: [MPG] Sec. 3.4 (Observation), C.2.4. A server has its flows in progress and, of its task
durations and task completion times each, mean, 90th percentile, standard deviation, discounted mean
and weighted discounted mean with 0.9^age; the balancer the same five of its inter-arrival times.

Durations are in seconds and flows are counted, neither scaled: the paper names no scaling. An empty
slot is not a sample, unlike in the authors' code; a server without any has zeros for its features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.observe import SCALARS, reduce_samples
from shm.snapshot import Snapshot

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

SERVER_FEATURES = 1 + 2 * len(SCALARS)
BALANCER_FEATURES = len(SCALARS)


@dataclass(frozen=True)
class Seen:
    """observation (size(N),) f32: servers one after the other, then the inter-arrival times.

    duration_s (N,): l_j of the rewards, the mean of task durations weighted by 0.9^age; a server
    without samples has the mean of those that have some, and all have 0 if none has.
    """

    observation: Float32
    duration_s: Float64


def size(servers: int) -> int:
    """Entries of an observation of so many servers."""
    return servers * SERVER_FEATURES + BALANCER_FEATURES


def see(snapshot: Snapshot, servers: int) -> Seen:
    """Raises ValueError if the snapshot has another number of servers."""
    count = snapshot.identity.size
    if count != servers:
        raise ValueError(f"this agent is made for {servers} servers, there are {count}")
    reduced = reduce_samples(
        snapshot.now_ns, (snapshot.duration, snapshot.fct, snapshot.interarrival)
    )
    durations, completions, gaps = np.split(reduced.scalars, (count, 2 * count), axis=1)
    flows = snapshot.flows[None].astype(np.float32)
    of_servers = np.concatenate((flows, durations, completions)).T
    duration_s = durations[SCALARS.index("weighted")].astype(np.float64)
    known = reduced.count[:count] > 0
    if known.any():
        duration_s = np.where(known, duration_s, duration_s[known].mean())
    return Seen(np.concatenate((of_servers.ravel(), gaps[:, 0])), duration_s)
