"""Prometheus' protobuf format, the one that carries native histograms.

Lives here: how families are spelled in it: io.prometheus.client.MetricFamily of
prometheus/client_model's metrics.proto, each message after its length. Never here: which families
there are (`lbd.metrics`). Only what is told is spelled: eight messages, three wire types
(protobuf.dev/programming-guides/encoding); a library would make an object a sample.

A histogram's buckets are told as they are counted, four an octave, and the text format's beside
them, for scrapers that take those. What is at most 15 us is its zero bucket; what is above 64 s,
where counting ends, is told as a bucket without an upper bound.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from lbd.exposition import Family
from lbd.text_format import BOUNDS_S, cumulative
from shm import histogram

MEDIA_TYPE: Final = "application/vnd.google.protobuf"
PARAMETERS: Final = {"proto": "io.prometheus.client.MetricFamily", "encoding": "delimited"}

FIRST: Final = histogram.FIRST_EXPONENT * histogram.OCTAVE + 1
"""The index, as the format counts them from (1 / 2**(1/4), 1], of the first bucket above zero's."""
OVERFLOW: Final = 1024 * histogram.OCTAVE + 1
"""The index of the bucket above the largest double."""

_KINDS: Final = {"counter": 0, "gauge": 1, "histogram": 4}
_VALUE_FIELDS: Final = {"counter": 3, "gauge": 2}
_VARINT, _DOUBLE, _BYTES = 0, 1, 2
_double: Final = struct.Struct("<d").pack


class ProtobufExposition:
    """See `lbd.exposition.Exposition`."""

    content_type = "; ".join((MEDIA_TYPE, *(f"{k}={v}" for k, v in PARAMETERS.items())))

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, family: Family, samples: Iterable[tuple[Sequence[str], float]]) -> None:
        labels, field = family.labels, _VALUE_FIELDS[family.kind]
        metrics = [
            _before(field, labels, tuple(values)) + _double(value) for values, value in samples
        ]
        if metrics:
            self._add(family, metrics)

    def add_histogram(
        self,
        family: Family,
        samples: Iterable[tuple[Sequence[str], Sequence[int], float]],
    ) -> None:
        metrics = []
        for values, buckets, total in samples:
            labels = _labels(family.labels, tuple(values))
            metrics.append(_bytes(4, labels + _bytes(7, _histogram(buckets, total))))
        self._add(family, metrics)

    def _add(self, family: Family, metrics: list[bytes]) -> None:
        head = _head(family)
        self._parts += (_varint(len(head) + sum(map(len, metrics))), head, *metrics)

    def body(self) -> bytes:
        return b"".join(self._parts)


def _histogram(buckets: Sequence[int], total: float) -> bytes:
    """A Histogram of the counts of all buckets and their values' sum."""
    counts = [_varint(count) for count in cumulative(buckets)]
    heads = map(_BUCKETS.__getitem__, map(len, counts))
    zero, *positive, above = buckets
    spans, deltas = _spans(positive, above)
    return b"".join(
        (
            _COUNT + counts[-1],
            _SUM + _double(total),
            *chain.from_iterable(zip(heads, counts, _BOUNDS, strict=True)),
            _SCHEMA_AND_ZERO + _varint(zero),
            *(_bytes(12, span) for span in spans),
            _bytes(13, deltas),
        )
    )


def _spans(positive: Sequence[int], above: int) -> tuple[list[bytes], bytes]:
    """The BucketSpans: from the first to the last count that is not 0, then what is above all.

    With them the counts' differences, packed.
    """
    held = [at for at, count in enumerate(positive) if count]
    spans: list[bytes] = []
    counts: list[int] = []
    end = 0
    if held:
        first, after = held[0], held[-1] + 1
        spans.append(_span(FIRST + first, after - first))
        counts += positive[first:after]
        end = FIRST + after
    if above:
        spans.append(_span(OVERFLOW - end, 1))
        counts.append(above)
    deltas = map(int.__sub__, counts, (0, *counts))
    return spans, b"".join(_varint(_zigzag(delta)) for delta in deltas)


@lru_cache(maxsize=1 << 10)
def _span(offset: int, length: int) -> bytes:
    return _key(1, _VARINT) + _varint(_zigzag(offset)) + _key(2, _VARINT) + _varint(length)


@lru_cache(maxsize=1 << 10)
def _head(family: Family) -> bytes:
    """A MetricFamily up to its metrics."""
    return (
        _bytes(1, family.name.encode())
        + _bytes(2, family.help.encode())
        + _key(3, _VARINT)
        + _varint(_KINDS[family.kind])
    )


@lru_cache(maxsize=1 << 14)
def _before(field: int, names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    """A counter's or gauge's Metric up to the eight bytes of its value."""
    value = _bytes(field, _key(1, _DOUBLE) + bytes(8))
    return _bytes(4, _labels(names, values) + value)[:-8]


@lru_cache(maxsize=1 << 14)
def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> bytes:
    """A Metric's LabelPairs."""
    return b"".join(
        _bytes(1, _bytes(1, name.encode()) + _bytes(2, value.encode()))
        for name, value in zip(names, values, strict=True)
    )


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, _BYTES) + _varint(len(value)) + value


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else ~(value << 1)


def _varint(value: int) -> bytes:
    return _SHORT[value] if value < len(_SHORT) else _septets(value)


def _septets(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SHORT: Final = tuple(map(_septets, range(1 << 12)))
"""Most numbers of a scrape."""
_COUNT: Final = _key(1, _VARINT)
_SUM: Final = _key(2, _DOUBLE)
_BOUNDS: Final = tuple(_key(2, _DOUBLE) + _double(le) for le in (*BOUNDS_S, math.inf))
_BUCKETS: Final = tuple(_bytes(3, _COUNT + bytes(n + len(_BOUNDS[0])))[:3] for n in range(11))
"""A Bucket up to its count, by how many bytes that takes."""
_SCHEMA_AND_ZERO: Final = (
    _key(5, _VARINT)
    + _varint(_zigzag(histogram.SCHEMA))
    + _key(6, _DOUBLE)
    + _double(histogram.BOUNDS_S[0])
    + _key(7, _VARINT)
)
"""The format's own scale, and the zero bucket up to its count."""
