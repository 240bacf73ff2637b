"""WikiBench's trace format: `counter timestamp url save-flag` lines, as Wikipedia's were published.

Lives here: reading and checking. Never here: scaling (`arrivals.Plan` does that), what page of
which server answers.
Source: van Baaren, "WikiBench" (2009); Urdaneta et al. (2009).
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from testbed.load.arrivals import Plan
from testbed.load.trace import TraceError, check_target, check_time, shifted

_FLAGS = ("-", "save")


def read_wikibench(path: Path) -> Plan:
    """The plan in the file, shifted to begin one mean gap after 0; targets without their hosts.

    Requests that save a page are left out, as the papers' replays do. Raises TraceError for a line
    that is not so, or for a time that goes back by more than the format's millisecond; OSError if
    the file cannot be read.
    """
    times_s: list[float] = []
    queries: list[str] = []
    number = 0
    with path.open(encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            time_s, query, flag = _parse(line.rstrip("\r\n"), where)
            if times_s and time_s < times_s[-1] - 0.001:
                raise TraceError(f"{where}: time goes back to {time_s}")
            if flag == "-":
                times_s.append(max(time_s, times_s[-1]) if times_s else time_s)
                queries.append(query)
    return shifted(times_s, queries, f"{path}:{max(1, number)}")


def _parse(text: str, where: str) -> tuple[float, str, str]:
    fields = text.split(" ")
    if len(fields) != 4:
        raise TraceError(f"{where}: {len(fields)} fields instead of counter timestamp url flag")
    counter, timestamp, url, flag = fields
    if not (counter.isascii() and counter.isdigit()):
        raise TraceError(f"{where}: counter {counter!r} is not a whole number")
    if flag not in _FLAGS:
        raise TraceError(f"{where}: flag {flag!r} is none of {', '.join(_FLAGS)}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise TraceError(f"{where}: url {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise TraceError(f"{where}: url {url!r} is not http://host/path")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return check_time(timestamp, where), check_target(target, where), flag
