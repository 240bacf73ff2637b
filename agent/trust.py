"""Whether the policy may go on: a monitor of its inputs and of what comes of its weights.

Lives here: pure judgements on observations, their thresholds, their reasons. Never here: what a
hand-over means to the data plane (`agent.agent` stops publishing, so weights expire and the
service's fallback chooses), log, metrics.

Two questions. Do the inputs lie where the policy was trained? Beyond that it guesses. And is it
worse than the heuristic it corrects? What the heuristic would have done cannot be computed from
what the policy did, so it is tried: now and then, for some seconds, the weights are the
heuristic's (g = 1, b = 1, middle memory), and mean flow durations of such a trial are compared with
those just before and after it. A policy that is worse, beyond what chance explains, is suspended.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.observe import CLIP, FEATURES, SERVICE_FEATURES, Observation

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Stand(StrEnum):
    """Who decides at this step."""

    POLICY = "policy"
    TRIAL = "trial"
    STRANGE = "strange inputs"
    WORSE = "worse than the heuristic"

    @property
    def trusted(self) -> bool:
        return self in (Stand.POLICY, Stand.TRIAL)


@dataclass(frozen=True)
class TrustSettings:
    """Times in seconds.

    strange_share: of the inputs that may lie outside of the trained range; more of them for
    `strange_s` suspends the policy, less than half as many for `calm_s` restores it. Trials last
    `trial_s` and begin every `trial_every_s`; flows of the first `settle_s` after a switch do not
    count. worse_by: the least excess, in logarithms, over `errors` standard errors of at least
    `least_trials` of the last `most_trials`. suspended_s: how long until the policy is tried again.
    """

    strange_share: float = 0.2
    strange_s: float = 5.0
    calm_s: float = 30.0
    trial_every_s: float = 120.0
    trial_s: float = 6.0
    settle_s: float = 1.0
    worse_by: float = 0.05
    errors: float = 4.0
    least_trials: int = 6
    most_trials: int = 20
    suspended_s: float = 600.0


SLACK: Final = 0.25
"""How far beyond the trained range an input may lie, in widths of that range."""

GAP_MOST_S: Final = 1.0
"""What a step counts for at most: nobody knows what was in a gap between two of them."""


@dataclass(frozen=True)
class Envelope:
    """The range of each input that the policy was trained on, (F,) and (S,) each."""

    low: Float64
    high: Float64
    service_low: Float64
    service_high: Float64

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Envelope:
        """From a checkpoint's header. Raises ValueError where it does not fit the features."""
        ranges = [np.asarray(document[name], dtype=np.float64) for name in _RANGES]
        widths = [len(FEATURES)] * 2 + [len(SERVICE_FEATURES)] * 2
        if [len(found) for found in ranges] != widths:
            raise ValueError("the trained ranges are not those of this agent's features")
        return cls(*ranges)

    def document(self) -> dict[str, list[float]]:
        """For a checkpoint's header."""
        return {name: np.round(getattr(self, name), 4).tolist() for name in _RANGES}

    def outside(self, observation: Observation) -> float:
        """The share of inputs that lie outside, over backends and the service, in [0, 1]."""
        rows = _outside(observation.features, self.low, self.high)
        own = _outside(observation.service, self.service_low, self.service_high)
        return float(rows.sum() + own.sum()) / (rows.size + own.size)


def _outside(values: Float32, low: Float64, high: Float64) -> NDArray[np.bool_]:
    """Beyond the range and its slack; where inputs are clipped before that, those at the clip."""
    slack = SLACK * (high - low)
    least = np.where(low > -_CLIPPED, np.maximum(low - slack, -_CLIPPED), -np.inf)
    most = np.where(high < _CLIPPED, np.minimum(high + slack, _CLIPPED), np.inf)
    outside: NDArray[np.bool_] = (values < least) | (values > most)
    return outside


_CLIPPED: Final = CLIP - 1e-3
_RANGES: Final = ("low", "high", "service_low", "service_high")


class Monitor:
    """One service's. `judge` is to be called at every step, in order of time."""

    def __init__(self, settings: TrustSettings, envelope: Envelope | None) -> None:
        self._settings = settings
        self._envelope = envelope
        self.outside = 0.0
        self.excess: float | None = None
        self.trials = 0
        self.suspensions = 0
        self.stand = Stand.POLICY
        self._last_ns: int | None = None
        self._strange_s = 0.0
        self._calm_s = 0.0
        self._cycle_s = 0.0
        self._suspended_s = 0.0
        self._answers = [0, 0, 0]  # before, during and after a trial
        self._duration_ns = [0, 0, 0]
        self._differences: deque[float] = deque(maxlen=settings.most_trials)

    def forget(self) -> None:
        """Another service's life begins: the policy is trusted, and counters go on."""
        self._last_ns = None
        self._strange_s = self._calm_s = 0.0
        self.outside, self.excess = 0.0, None
        self._restart(Stand.POLICY)

    def judge(self, observation: Observation) -> Stand:
        """Who decides from this observation on."""
        step_s = 0.0
        if self._last_ns is not None:
            step_s = max((observation.now_ns - self._last_ns) * 1e-9, 0.0)
        step_s = min(step_s, GAP_MOST_S)
        self._last_ns = observation.now_ns
        strange = self._strange(observation, step_s)
        if self.stand is Stand.WORSE:
            self._suspended_s += step_s
            if self._suspended_s >= self._settings.suspended_s:
                self._restart(Stand.POLICY)
        elif strange:
            if self.stand is not Stand.STRANGE:
                self.suspensions += 1
            self._restart(Stand.STRANGE)
        elif self.stand is Stand.STRANGE:
            self._restart(Stand.POLICY)
        else:
            self._compare(observation, step_s)
        return self.stand

    def _strange(self, observation: Observation, step_s: float) -> bool:
        if self._envelope is None:
            return False
        self.outside = self._envelope.outside(observation)
        share = self._settings.strange_share
        self._strange_s = self._strange_s + step_s if self.outside > share else 0.0
        self._calm_s = self._calm_s + step_s if self.outside < 0.5 * share else 0.0
        if self.stand is Stand.STRANGE:
            return self._calm_s < self._settings.calm_s
        return self._strange_s >= self._settings.strange_s

    def _restart(self, stand: Stand) -> None:
        self.stand = stand
        self._suspended_s = 0.0
        self._begin_cycle()
        if stand is not Stand.STRANGE:
            self._differences.clear()

    def _begin_cycle(self) -> None:
        self._cycle_s = 0.0
        self._answers = [0, 0, 0]
        self._duration_ns = [0, 0, 0]

    def _compare(self, observation: Observation, step_s: float) -> None:
        """Take this step's answers in, and switch sides when it is time."""
        settings = self._settings
        self._cycle_s += step_s
        into_s = self._cycle_s - (settings.trial_every_s - settings.trial_s)
        stretch = int(into_s // settings.trial_s)  # 0 before, 1 during, 2 after a trial
        if stretch > 2:
            self._close()
            return
        if stretch >= 0 and into_s - stretch * settings.trial_s > settings.settle_s:
            self._answers[stretch] += observation.averages.answers
            self._duration_ns[stretch] += observation.averages.duration_ns
        self.stand = Stand.TRIAL if stretch == 1 else Stand.POLICY

    def _close(self) -> None:
        """A trial and what lies next to it have been seen: load changes, so only that counts."""
        self.trials += 1
        answers, duration_ns = self._answers, self._duration_ns
        self._begin_cycle()
        if not all(answers) or not all(duration_ns):
            return
        before, during, after = np.log(np.divide(duration_ns, answers))
        self._differences.append(float(0.5 * (before + after) - during))
        found = np.array(self._differences)
        self.excess = float(found.mean())
        if len(found) < self._settings.least_trials:
            return
        error = float(found.std(ddof=1)) / math.sqrt(len(found))
        if self.excess > max(self._settings.worse_by, self._settings.errors * error):
            self.suspensions += 1
            self._restart(Stand.WORSE)
