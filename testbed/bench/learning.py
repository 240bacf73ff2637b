"""The learning experiment as a bench: does an agent that knows nothing come to rank the backends?

Lives here: the rows. The experiment itself is `testbed.learn.experiment`, over real TCP.
"""

from __future__ import annotations

from typing import Any

from testbed.learn.experiment import run as learn

SEEDS = 5
DURATION_S = 150.0


def run() -> list[dict[str, Any]]:
    """One row a seed, after DURATION_S of learning; about 13 minutes in all."""
    rows = []
    for seed in range(SEEDS):
        curve = learn(seed, DURATION_S)
        rows.append(
            {
                "seed": seed,
                "rank_correlation": float(curve.agreement()[-1]),
                "pairs_ranked_rightly": curve.pairs_right(),
            }
        )
    return rows
