"""CPU of the data plane against that of another checkout of it: `bench --against TREE`.

Lives here: the comparison of two versions in one run. Never here: how a balancer is started or
loaded (`testbed.bench.relay`).
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from testbed.bench.relay import CASES, Case, interleaved, start_lbd, start_server
from testbed.processes import Children, free_ports

STARTS = 8
ROUNDS = 4
HERE = Path(__file__).parents[2]
_RESAMPLES = 10_000


def run(tree: Path) -> list[dict[str, Any]]:
    """One row a case: microseconds of CPU a request here and in `tree`, and their ratio.

    Both are started STARTS times anew, for two processes of one program differ as well: where
    their memory lies makes some per cent. The figures are medians over the starts, `ratio` that of
    their pairs; `ratio_low`, `ratio_high` are its 95 % interval by bootstrap. `same_low`,
    `same_high` are the interval for `tree` against itself: what the method cannot tell apart. Needs
    nginx and wrk.
    """
    found: dict[Case, list[tuple[float, float, float]]] = {case: [] for case in CASES}
    errors = dict.fromkeys(CASES, 0)
    for _ in range(STARTS):
        with TemporaryDirectory(prefix="lbd-bench-") as folder, Children() as children:
            (server,) = free_ports(1)
            start_server(Path(folder), children, server)
            trees = {"here": HERE, "there": tree.resolve(), "again": tree.resolve()}
            balancers = {
                name: start_lbd(Path(folder), children, server, of) for name, of in trees.items()
            }
            for case in CASES:
                cpu_us, failed = interleaved(case, balancers, ROUNDS)
                here, there, again = (float(np.median(cpu_us[name])) for name in trees)
                found[case].append((here, there, again))
                errors[case] += failed
    return [_row(case.name, np.array(found[case]), errors[case]) for case in CASES]


def _row(name: str, cpu_us: np.ndarray[Any, np.dtype[np.float64]], errors: int) -> dict[str, Any]:
    """cpu_us: (STARTS, 3), here, there and there again."""
    here, there, again = cpu_us.T
    # Both of `there` make the measure that `here` is held to.
    ratios = here / np.sqrt(there * again)
    low, high = _interval(ratios)
    same_low, same_high = _interval(again / there)
    return {
        "case": name,
        "here_us": float(np.median(here)),
        "there_us": float(np.median(there)),
        "ratio": float(np.median(ratios)),
        "ratio_low": low,
        "ratio_high": high,
        "same_low": same_low,
        "same_high": same_high,
        "errors": errors,
    }


def _interval(ratios: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)
