"""Whether the agent is ahead of another method, behind it, or whether that cannot be told.

Lives here: the judgement and its words. Never here: intervals (`figures`), pages (`report`).
Judged are mean and 99th percentile with failures counted, on the same requests, over repetitions
that there is no reason to doubt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

from testbed.experiments.figures import PAIRS_MIN, Row
from testbed.experiments.methods import learned

FIGURES = ("mean", "p99")

NO_VERDICT = f"Too few repetitions for a verdict: it takes {PAIRS_MIN} that count."


class Verdict(Enum):
    """What the interval of a ratio of the agent to another method says."""

    AHEAD = "ahead of"
    BEHIND = "behind"
    ALIKE = "not to be told from"
    TOO_FEW = "too few repetitions to tell from"


def judge(mine: Row, other: Row, figure: str) -> Verdict:
    """The agent's row over another's."""
    ratio = mine.over(other, figure)
    if ratio is None or not math.isfinite(ratio.low):
        return Verdict.TOO_FEW
    if ratio.low > 1.0:
        return Verdict.BEHIND
    return Verdict.AHEAD if ratio.high < 1.0 else Verdict.ALIKE


def in_words(rows: Sequence[Row]) -> str:
    """A sentence a kind of page, agent and figure. rows: of one case and window.

    NO_VERDICT alone where none can be judged; empty where there is nobody to judge.
    """
    judged = [
        (named, figure, _by_verdict(mine, others, figure))
        for page in dict.fromkeys(row.page for row in rows)
        for named, mine, others in _opponents([row for row in rows if row.page == page], page)
        for figure in FIGURES
    ]
    if judged and all(set(by_verdict) == {Verdict.TOO_FEW} for _, _, by_verdict in judged):
        return NO_VERDICT
    return " ".join(_sentence(*one) for one in judged)


def _opponents(rows: Sequence[Row], page: str) -> Iterator[tuple[str, Row, Sequence[Row]]]:
    """Each agent, by what to call it, and those that it is to be compared with."""
    others = [row for row in rows if not learned(row.method)]
    for mine in rows:
        if others and learned(mine.method):
            yield mine.method if page == "all" else f"{mine.method}, {page} pages", mine, others


def _by_verdict(mine: Row, others: Iterable[Row], figure: str) -> dict[Verdict, list[str]]:
    """The others' methods."""
    found: dict[Verdict, list[str]] = {}
    for other in others:
        found.setdefault(judge(mine, other, figure), []).append(other.method)
    return found


def _sentence(named: str, figure: str, by_verdict: Mapping[Verdict, Sequence[str]]) -> str:
    parts = [
        f"{verdict.value} {', '.join(by_verdict[verdict])}"
        for verdict in Verdict
        if verdict in by_verdict
    ]
    few = f" (fewer than {PAIRS_MIN} that count)" if Verdict.TOO_FEW in by_verdict else ""
    return f"{named}, {figure}: {'; '.join(parts)}{few}."
