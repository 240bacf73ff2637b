"""What clients ask for, whatever server answers: when, which kind of page, which one, how much.

Lives here: traffic of an experiment's file into arrays, all of it from one seed. Never here: the
targets that a server knows pages by (`sites`).
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

import testbed
from testbed.experiments.schema import Day, Loop, Trace
from testbed.lab import pages
from testbed.load.sizes import Law, draw
from testbed.load.trace import TraceError, read_trace
from testbed.load.wikibench import read_wikibench

Floats = NDArray[np.float64]

TRACES = Path(testbed.__file__).parent / "traces"

RATES_PER_S = (
    796, 761, 687, 683, 691, 713, 697, 617, 519, 424, 377, 359,
    370, 391, 402, 435, 521, 643, 732, 768, 759, 759,
)  # fmt: skip
"""Wikipedia's requests a second by hour, UTC, hours 0 to 21; what followed is interpolated."""

POPULARITY = 0.5
"""Exponent of the Zipf law of pages: a few are hot, as in what Wikipedia serves."""

SIZE_CV = 0.5
"""Of the work that pages of one kind make."""

_WIKI_MARKS = ("/wiki/", "/w/index.php", "/index.php")


class Page(enum.IntEnum):
    """What kind of page a request is for."""

    LOOP = 0
    WIKI = 1
    STATIC = 2


@dataclass(frozen=True)
class Demand:
    """n requests in the order of their planned times.

    planned_s [n]. page [n]: of `Page`. number [n]: which page of its kind, from 0; iterations of a
    loop. factor [n]: the work of a wiki or static page over the mean of its kind, for servers that
    only act as if.
    """

    planned_s: Floats
    page: NDArray[np.uint8]
    number: NDArray[np.int64]
    factor: Floats
    period_s: float

    def __len__(self) -> int:
        return len(self.planned_s)


def trace_file(traffic: Trace) -> Path:
    """One of those that come with the testbed by its name, any other by its path."""
    ours = TRACES / traffic.file
    return ours if ours.is_file() else traffic.file


def rate_at(hour: float) -> float:
    """Wikipedia's requests a second at an hour of the day, linear between full hours."""
    return float(
        np.interp(hour % 24, [*range(len(RATES_PER_S)), 24], [*RATES_PER_S, RATES_PER_S[0]])
    )


def demand(traffic: Loop | Trace | Day, rate_per_s: float, duration_s: float, seed: int) -> Demand:
    """The requests of `duration_s`; `rate_per_s` is the mean, for a day that of its hour 0.

    Raises TraceError or OSError for a trace that cannot be read.
    """
    rng = np.random.default_rng([seed, 7])
    match traffic:
        case Loop():
            planned_s = _poisson(rng, np.array([rate_per_s]), duration_s)
            iterations = draw(Law.EXPONENTIAL, traffic.iterations, 1.0, len(planned_s), rng)
            page = np.full(len(planned_s), Page.LOOP, np.uint8)
            return _demand(planned_s, page, np.rint(iterations).astype(np.int64), duration_s, rng)
        case Day():
            planned_s = _poisson(rng, shape(traffic) * rate_per_s, duration_s)
            is_wiki = rng.random(len(planned_s)) < traffic.wiki
            page = np.where(is_wiki, Page.WIKI, Page.STATIC).astype(np.uint8)
            return _demand(planned_s, page, _popular(len(planned_s), rng), duration_s, rng)
        case Trace():
            return _replay(traffic, rate_per_s, duration_s, rng)


def shape(traffic: Day) -> Floats:
    """(bins,) the rate over that of hour 0, along the run."""
    if traffic.to_h is None:
        hours = np.array([traffic.from_h])
    else:
        hours = np.linspace(traffic.from_h, traffic.to_h, 240, endpoint=False)
    return np.array([rate_at(float(hour)) for hour in hours]) / RATES_PER_S[0]


def _poisson(rng: np.random.Generator, rates_per_s: Floats, duration_s: float) -> Floats:
    """Arrivals whose rate goes through `rates_per_s`, in bins of one length over the duration."""
    width_s = duration_s / len(rates_per_s)
    counts = rng.poisson(rates_per_s * width_s)
    # Given how many there are in a bin, they are uniform in it.
    starts_s = np.repeat(np.arange(len(rates_per_s)) * width_s, counts)
    return np.sort(starts_s + rng.random(len(starts_s)) * width_s)


def _popular(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    weight = np.arange(1, pages.COUNT + 1) ** -POPULARITY
    return rng.choice(pages.COUNT, size=count, p=weight / weight.sum())


def _replay(
    traffic: Trace, rate_per_s: float, duration_s: float, rng: np.random.Generator
) -> Demand:
    path = trace_file(traffic)
    read = read_wikibench if traffic.format == "wikibench" else read_trace
    plan = read(path).at_rate(rate_per_s).lasting(duration_s)
    page = np.empty(len(plan), np.uint8)
    number = np.empty(len(plan), np.int64)
    for index, query in enumerate(plan.queries):
        page[index], number[index] = _identify(query, f"{path}: {query}")
    loops = page == Page.LOOP
    number[loops] = np.rint(number[loops] * traffic.iterations_scale)
    return _demand(plan.planned_s, page, number, duration_s, rng)


def _identify(query: str, where: str) -> tuple[Page, int]:
    """The page that a recorded target stands for here: the same one each time."""
    parts = urlsplit(query)
    if parts.path.rstrip("/").endswith("dummy.php"):
        given = parse_qs(parts.query).get("n", [""])[0]
        if not given.isdecimal():
            raise TraceError(f"{where}: n is not a number of iterations")
        return Page.LOOP, int(given)
    kind = Page.WIKI if any(mark in query for mark in _WIKI_MARKS) else Page.STATIC
    return kind, zlib.crc32(query.encode()) % pages.COUNT


def _demand(
    planned_s: Floats,
    page: NDArray[np.uint8],
    number: NDArray[np.int64],
    period_s: float,
    rng: np.random.Generator,
) -> Demand:
    factor = draw(Law.LOGNORMAL, 1.0, SIZE_CV, len(planned_s), rng)
    return Demand(planned_s, page, number, factor, period_s)
