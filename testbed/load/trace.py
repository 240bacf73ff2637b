"""A recorded plan: a file of `time<TAB>query` lines under a header that says so.

Lives here: reading and checking, what a line of any format must keep to. Never here: scaling
(`arrivals.Plan` does that).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from testbed.load.arrivals import Plan

_HEADER = "time\tquery"
_QUERY_MAX_CHARACTERS = 4096


class TraceError(Exception):
    """The file is no trace; the message begins with file:line."""


def read_trace(path: Path) -> Plan:
    """The plan in the file, shifted to begin one mean gap after 0.

    Times are seconds, not decreasing; queries are request targets. Raises TraceError for a line
    that is not so, and OSError if the file cannot be read.
    """
    times_s: list[float] = []
    queries: list[str] = []
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            if number == 1:
                if text != _HEADER:
                    raise TraceError(f"{path}:1: the header must be time<TAB>query")
                continue
            time_s, query = _parse(text, f"{path}:{number}")
            if times_s and time_s < times_s[-1]:
                raise TraceError(f"{path}:{number}: time goes back to {time_s}")
            times_s.append(time_s)
            queries.append(query)
    return shifted(times_s, queries, f"{path}:{len(times_s) + 1}")


def _parse(text: str, where: str) -> tuple[float, str]:
    fields = text.split("\t")
    if len(fields) != 2:
        raise TraceError(f"{where}: {len(fields)} fields instead of time<TAB>query")
    return check_time(fields[0], where), check_target(fields[1], where)


def check_time(text: str, where: str) -> float:
    """The seconds that `text` says, finite; raises TraceError that begins with `where`."""
    try:
        time_s = float(text)
    except ValueError as error:
        raise TraceError(f"{where}: time {text!r} is not a number") from error
    if not math.isfinite(time_s):
        raise TraceError(f"{where}: time {text!r} is not finite")
    return time_s


def check_target(text: str, where: str) -> str:
    """`text` if it is a request target; raises TraceError that begins with `where`."""
    # It goes onto the wire as it is: nothing may end the request line early.
    if not text.startswith("/") or not all("!" <= character <= "~" for character in text):
        raise TraceError(f"{where}: query {text!r} is not a request target")
    if len(text) > _QUERY_MAX_CHARACTERS:
        raise TraceError(f"{where}: query longer than {_QUERY_MAX_CHARACTERS} characters")
    return text


def shifted(times_s: Sequence[float], queries: Sequence[str], where: str) -> Plan:
    """A plan of these, begun one mean gap after 0; raises TraceError for less than two times."""
    if len(times_s) < 2 or times_s[-1] == times_s[0]:
        raise TraceError(f"{where}: needs requests at two different times")
    gap_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    planned_s = np.asarray(times_s) - times_s[0] + gap_s
    return Plan(planned_s, queries, float(planned_s[-1]))
