"""What is asked for and when: a plan made before the first request leaves.

Lives here: the plan, Poisson arrivals, scaling a plan in time. The same plan given to two
policies is what makes their results comparable request by request.
Never here: clocks, sockets, files (`trace` reads those).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from testbed.load.sizes import Law, Seconds, draw


@dataclass(frozen=True)
class Plan:
    """Requests in the order of their planned times.

    planned_s: [n] seconds from the start, not decreasing, not negative.
    queries: n request targets, each beginning with "/".
    work_s: [n] seconds of one CPU of speed 1 where the plan was made from them, else None.
    period_s: after how long the plan may begin again; not before the last planned time.
    """

    planned_s: Seconds
    queries: Sequence[str]
    period_s: float
    work_s: Seconds | None = None

    def __post_init__(self) -> None:
        count = len(self.planned_s)
        if len(self.queries) != count or (self.work_s is not None and len(self.work_s) != count):
            raise ValueError("planned times, queries and work differ in length")
        if count and (self.planned_s[0] < 0 or np.any(np.diff(self.planned_s) < 0)):
            raise ValueError("planned times must not be negative nor decrease")
        if not (math.isfinite(self.period_s) and self.period_s > 0):
            raise ValueError(f"a plan's period must be finite and positive, not {self.period_s}")
        if count and self.planned_s[-1] > self.period_s:
            raise ValueError("a request is planned after the plan's period")

    def __len__(self) -> int:
        return len(self.planned_s)

    @property
    def rate_per_s(self) -> float:
        """Requests a second over the whole period."""
        return len(self) / self.period_s

    def at_rate(self, rate_per_s: float) -> Plan:
        """The same requests, closer together or wider apart, `rate_per_s` of them a second."""
        if not (math.isfinite(rate_per_s) and rate_per_s > 0) or not len(self):
            raise ValueError(f"cannot give {len(self)} requests a rate of {rate_per_s}")
        factor = self.rate_per_s / rate_per_s
        return Plan(self.planned_s * factor, self.queries, self.period_s * factor, self.work_s)

    def lasting(self, duration_s: float) -> Plan:
        """The same requests, repeated or cut so that they fill `duration_s`."""
        if not (math.isfinite(duration_s) and duration_s > 0):
            raise ValueError(f"a duration must be finite and positive, not {duration_s}")
        times = math.ceil(duration_s / self.period_s)
        starts_s = np.repeat(np.arange(times) * self.period_s, len(self))
        planned_s = np.tile(self.planned_s, times) + starts_s
        count = int(np.searchsorted(planned_s, duration_s, side="left"))
        queries = (list(self.queries) * times)[:count]
        work_s = None if self.work_s is None else np.tile(self.work_s, times)[:count]
        return Plan(planned_s[:count], queries, duration_s, work_s)


def poisson(
    *,
    rate_per_s: float,
    duration_s: float,
    seed: int,
    mean_s: float,
    law: Law = Law.EXPONENTIAL,
    cv: float = 1.0,
) -> Plan:
    """Poisson arrivals over `duration_s` whose work follows `law` (see `sizes.draw`).

    Times and sizes come from separate streams of `seed`: another rate leaves the sizes as they
    are. Work is asked for in whole microseconds. Raises ValueError for what no law allows.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ValueError(f"a rate must be finite and positive, not {rate_per_s}")
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(f"a duration must be finite and positive, not {duration_s}")
    times = np.random.default_rng([seed, 0])
    expected = rate_per_s * duration_s
    planned_s = np.empty(0)
    # One block of eight standard deviations beyond the mean nearly always reaches the end.
    block = int(expected + 8 * math.sqrt(expected) + 16)
    last_s = 0.0
    while last_s < duration_s:
        gaps_s = times.standard_exponential(block) / rate_per_s
        planned_s = np.concatenate([planned_s, last_s + np.cumsum(gaps_s)])
        last_s = float(planned_s[-1])
    planned_s = planned_s[planned_s < duration_s]
    sizes = np.random.default_rng([seed, 1])
    work_us = np.rint(draw(law, mean_s, cv, len(planned_s), sizes) * 1e6).astype(np.int64)
    queries = [f"/?work_us={work}" for work in work_us.tolist()]
    return Plan(planned_s, queries, duration_s, work_us / 1e6)
