"""Choosing a backend: policies by name, one file each, which see the load and nothing else."""

from __future__ import annotations

from lbd.dispatch.ecmp import Ecmp
from lbd.dispatch.ewma import Ewma
from lbd.dispatch.hcl import HotCold
from lbd.dispatch.latency import Memory
from lbd.dispatch.least_time import LeastTime
from lbd.dispatch.load import Load
from lbd.dispatch.lsq import ShortestQueue
from lbd.dispatch.maglev import Maglev
from lbd.dispatch.p2c import TwoChoices
from lbd.dispatch.policy import NONE, Policy
from lbd.dispatch.rr import RoundRobin
from lbd.dispatch.sed import ShortestExpectedDelay
from lbd.dispatch.source_hash import BOUND, SourceHash
from lbd.dispatch.wcmp import Wcmp
from lbd.dispatch.wrr import SmoothWeightedRoundRobin

__all__ = ["NONE", "POLICIES", "Load", "Memory", "Policy", "create"]

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        RoundRobin,
        SmoothWeightedRoundRobin,
        Ecmp,
        Wcmp,
        ShortestQueue,
        ShortestExpectedDelay,
        TwoChoices,
        Ewma,
        LeastTime,
        HotCold,
        Maglev,
        SourceHash,
    )
}


def create(name: str, load: Load, memory: Memory, bound: float = BOUND) -> Policy:
    """The policy of that name; `memory` is the setting of `ewma` alone, `bound` of `source_hash`.

    KeyError if unknown.
    """
    policy = POLICIES[name]
    if policy is SourceHash:
        return SourceHash(load, bound)
    return Ewma(load, memory) if policy is Ewma else policy(load)
