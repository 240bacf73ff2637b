"""Ejection by what flows tell: who fails them one after the other is left out for a while.

Lives here: the decision, pure, from counters. Never here: reading them (`lbd.health.monitor`).

Counters come several times a second and are sums over the workers: a failure run is a row of looks
in which flows failed and none was answered. It is over with the first answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from config.health import Passive


@dataclass(frozen=True)
class Counts:
    """Of one backend, since it came. answered: flows that got a first byte, or completed."""

    answered: int
    unanswered: int


@dataclass(frozen=True)
class Change:
    """What to do with a backend. refused: it would be ejected, were there not too many already."""

    backend: int
    eject: bool
    refused: bool = False
    for_ns: int = 0


@dataclass
class _Record:
    seen: Counts
    run: int = 0
    ejections: int = 0  # counts back as well: the exponent of the next one's time
    ejected_until_ns: int = 0
    good_since_ns: int = 0


class Ejector:
    """Decides for one service. Backends are named by their identities.

    The first ejection lasts `eject_s`, each further one twice as long, up to `eject_max_s`; as long
    as the last one in good order takes one step back. After it a single failure ejects again: a
    backend that still fails costs few flows.
    """

    def __init__(self, rule: Passive) -> None:
        self._rule = rule
        self._records: dict[int, _Record] = {}

    def step(self, now_ns: int, counts: Mapping[int, Counts]) -> list[Change]:
        """Take a look at all backends the service has now; what is to be changed."""
        records = self._records = {
            backend: self._records.get(backend) or _Record(count, good_since_ns=now_ns)
            for backend, count in counts.items()
        }
        changes: list[Change] = []
        most = int(self._rule.max_ejected * len(records))
        for backend, record in records.items():
            if 0 < record.ejected_until_ns <= now_ns:
                record.ejected_until_ns = 0
                record.good_since_ns = now_ns
                record.run = self._rule.failures - 1
                changes.append(Change(backend, eject=False))
        for backend, record in records.items():
            self._count(record, counts[backend])
            if record.ejected_until_ns:
                continue
            if record.run >= self._rule.failures:
                changes.append(self._eject(now_ns, backend, record, most))
            elif record.ejections and now_ns - record.good_since_ns > self._time_ns(record):
                record.ejections -= 1
                record.good_since_ns = now_ns
        return changes

    def _count(self, record: _Record, now: Counts) -> None:
        answered = now.answered - record.seen.answered
        failed = now.unanswered - record.seen.unanswered
        record.seen = now
        record.run = 0 if answered else record.run + failed

    def _eject(self, now_ns: int, backend: int, record: _Record, most: int) -> Change:
        record.run = 0
        if sum(other.ejected_until_ns > 0 for other in self._records.values()) >= most:
            return Change(backend, eject=False, refused=True)
        record.ejections += 1
        for_ns = self._time_ns(record)
        record.ejected_until_ns = now_ns + for_ns
        return Change(backend, eject=True, for_ns=for_ns)

    def _time_ns(self, record: _Record) -> int:
        # The exponent is bounded so that no number of ejections overflows a float.
        doubled = self._rule.eject_s * 2.0 ** min(record.ejections - 1, 60)
        return int(min(doubled, self._rule.eject_max_s) * 1e9)
