"""What became of each request, and the figures that follow from it.

Lives here: the record's layout, outcomes, the summary, the file format.
Never here: anything that is measured; `generator` fills the table.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed.load.sizes import Seconds
from testbed.stats import Spread, spread


class Outcome(enum.IntEnum):
    """How a request ended. PENDING: it has not (only in a table that is still being filled)."""

    OK = 0
    REFUSED = 1
    RESET = 2
    TIMEOUT = 3
    BAD_STATUS = 4
    TRUNCATED = 5
    NOT_SENT = 6
    PENDING = 7

    @property
    def label(self) -> str:
        """The name for people: `bad-status`."""
        return self.name.lower().replace("_", "-")


# Times are ns from the run's start on CLOCK_MONOTONIC, -1 for what never happened.
# planned: when it should leave; handled: when the generator took it up, which is its own lag;
# sent: its connection was started, or with keep-alive it was written to a free one.
RECORD = np.dtype(
    [
        ("planned_ns", np.int64),
        ("handled_ns", np.int64),
        ("sent_ns", np.int64),
        ("first_byte_ns", np.int64),
        ("done_ns", np.int64),
        ("bytes", np.int64),
        ("outcome", np.uint8),
    ]
)
LAG_MAX_S = 0.005


@dataclass(frozen=True)
class Summary:
    """A run in figures. Latency is that of the requests that succeeded, from planned to done."""

    requests: int
    succeeded: int
    failures: dict[str, int]
    duration_s: float
    latency: Spread
    first_byte: Spread
    pool_wait: Spread
    lag: Spread
    cpu_us_per_request: float
    believable: bool
    why_not: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """A finished run: one `RECORD` row a request, in the plan's order.

    cpu_s: CPU time of the generator's process during the run. about: whatever names the run.
    """

    table: NDArray[np.void]
    cpu_s: float
    lag_max_s: float = LAG_MAX_S
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """[n] which requests succeeded."""
        return np.asarray(self.table["outcome"] == Outcome.OK)

    def latency_s(self, failure_s: float | None = None) -> Seconds:
        """Planned to done, in the plan's order, of the requests that succeeded.

        With `failure_s`, of all requests: a failed one counts as that long, so that a policy
        cannot gain by failing.
        """
        latency_s = (self.table["done_ns"] - self.table["planned_ns"]) / 1e9
        if failure_s is None:
            return np.asarray(latency_s[self.ok])
        return np.where(self.ok, latency_s, failure_s)

    def lag_s(self) -> Seconds:
        """[n] how late the generator itself was: the part of a latency that is nobody else's."""
        return np.asarray((self.table["handled_ns"] - self.table["planned_ns"]) / 1e9)

    def failures(self) -> dict[str, int]:
        """Failed requests by outcome, those that occurred."""
        counts = np.bincount(self.table["outcome"], minlength=len(Outcome))
        return {kind.label: int(counts[kind]) for kind in Outcome if kind and counts[kind]}

    def why_not_believable(self) -> tuple[str, ...]:
        """Every reason to distrust the run; empty if there is none."""
        reasons = []
        if len(self.table) == 0:
            return ("no requests",)
        lag_p99_s = float(np.percentile(self.lag_s(), 99))
        if lag_p99_s > self.lag_max_s:
            reasons.append(
                f"the generator was late: lag p99 {lag_p99_s * 1e3:.1f} ms "
                f"above {self.lag_max_s * 1e3:g} ms"
            )
        not_sent = int(np.count_nonzero(self.table["outcome"] == Outcome.NOT_SENT))
        if not_sent:
            reasons.append(f"{not_sent} requests were not sent")
        return tuple(reasons)

    @property
    def believable(self) -> bool:
        """Whether the figures are the target's and not the generator's."""
        return not self.why_not_believable()

    def summary(self) -> Summary:
        """The run in figures."""
        table, ok = self.table, self.ok
        count = len(table)
        good = table[ok]
        sent = table[table["sent_ns"] >= 0]
        why_not = self.why_not_believable()
        return Summary(
            requests=count,
            succeeded=int(np.count_nonzero(ok)),
            failures=self.failures(),
            duration_s=float(table["done_ns"].max()) / 1e9 if count else 0.0,
            latency=spread(self.latency_s()),
            first_byte=spread((good["first_byte_ns"] - good["planned_ns"]) / 1e9),
            pool_wait=spread((sent["sent_ns"] - sent["handled_ns"]) / 1e9),
            lag=spread(self.lag_s()),
            cpu_us_per_request=self.cpu_s * 1e6 / count if count else float("nan"),
            believable=not why_not,
            why_not=why_not,
        )

    def save(self, path: Path) -> None:
        """Write everything to `path` as .npz, without pickles."""
        about = json.dumps(
            {"cpu_s": self.cpu_s, "lag_max_s": self.lag_max_s, "about": dict(self.about)}
        )
        with path.open("wb") as file:
            np.savez_compressed(file, table=self.table, about=np.array(about))

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read what `save` wrote; raises ValueError or OSError for anything else."""
        with np.load(path, allow_pickle=False) as file:
            if set(file.files) != {"table", "about"} or file["table"].dtype != RECORD:
                raise ValueError(f"{path} is not the result of a load run")
            about = json.loads(str(file["about"]))
            return cls(file["table"], about["cpu_s"], about["lag_max_s"], about["about"])
