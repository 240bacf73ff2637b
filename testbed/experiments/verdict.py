"""Whether the agent is ahead of another method, behind it, or whether that cannot be told.

Lives here: the judgement and its words. Never here: intervals (`figures`), pages (`report`).
Judged are mean and 99th percentile with failures counted, on the same requests, over repetitions
that there is no reason to doubt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    sentences = []
    few = True
    for page in dict.fromkeys(row.page for row in rows):
        of_page = [row for row in rows if row.page == page]
        for mine in (row for row in of_page if learned(row.method)):
            others = [row for row in of_page if not learned(row.method)]
            if others:
                named = f"{mine.method}, {page} pages" if page != "all" else mine.method
                sentences += [_sentence(named, mine, others, figure) for figure in FIGURES]
                found = {judge(mine, other, figure) for other in others for figure in FIGURES}
                few = few and found == {Verdict.TOO_FEW}
    return NO_VERDICT if sentences and few else " ".join(sentences)


def _sentence(named: str, mine: Row, others: Iterable[Row], figure: str) -> str:
    by_verdict: dict[Verdict, list[str]] = {}
    for other in others:
        by_verdict.setdefault(judge(mine, other, figure), []).append(other.method)
    parts = []
    for verdict in Verdict:
        if verdict in by_verdict:
            parts.append(f"{verdict.value} {', '.join(by_verdict[verdict])}")
    few = f" (fewer than {PAIRS_MIN} that count)" if Verdict.TOO_FEW in by_verdict else ""
    return f"{named}, {figure}: {'; '.join(parts)}{few}."
