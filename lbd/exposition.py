"""What a scrape is written into, family by family, whatever its format.

Lives here: families, the formats' common face, which format a scraper is given. Never here: which
families there are (`lbd.metrics`), how they are spelled (`lbd.text_format`, `lbd.protobuf_format`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class Family:
    """One metric: its name, kind, help, and the names of its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Exposition(Protocol):
    """One scrape; a family without samples is left out."""

    content_type: str

    def add(self, family: Family, samples: Sequence[tuple[tuple[str, ...], float]]) -> None:
        """Counters and gauges; each sample the values of the family's labels, and its own."""

    def add_histogram(
        self,
        family: Family,
        labels: Sequence[tuple[str, ...]],
        buckets: NDArray[np.uint64],
        sums: Sequence[float],
    ) -> None:
        """N histograms: label values, (N, buckets) counts of `shm.histogram`'s buckets, sums."""

    def body(self) -> bytes:
        """All of it."""


def quality(accept: str, kind: str, **parameters: str) -> float:
    """How much a scraper wants a media type: the q of an Accept header (RFC 9110, 12.5.1), 0 to 1.

    0 where it does not name it, or with other values of `parameters`. Wildcards name nothing: who
    means protobuf says so. A q that is no number counts as 0.
    """
    for part in accept.split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        found = dict(pair.split("=", 1) for pair in rest if "=" in pair)
        if name.lower() == kind and parameters.items() <= found.items():
            try:
                return float(found.get("q", "1"))
            except ValueError:
                return 0.0
    return 0.0
