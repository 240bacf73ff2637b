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
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

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

    def add(self, family: Family, samples: Sequence[tuple[tuple[str, ...], float]]) -> None:
        if samples:
            labels, values = zip(*samples, strict=True)
            self._add(
                family, list(map(bytes.__add__, _heads(family, labels), map(_double, values)))
            )

    def add_histogram(
        self,
        family: Family,
        labels: Sequence[tuple[str, ...]],
        buckets: NDArray[np.uint64],
        sums: Sequence[float],
    ) -> None:
        if not labels:
            return
        metrics = [
            _bytes(4, _labels(family.labels, values) + _bytes(7, told))
            for values, told in zip(labels, _histograms(buckets, sums), strict=True)
        ]
        self._add(family, metrics)

    def _add(self, family: Family, metrics: list[bytes]) -> None:
        head = _head(family)
        self._parts += (_varint(len(head) + sum(map(len, metrics))), head, *metrics)

    def body(self) -> bytes:
        return b"".join(self._parts)


def _histograms(buckets: NDArray[np.uint64], sums: Sequence[float]) -> Iterator[bytes]:
    """A Histogram of each row's counts and its values' sum.

    All rows at once: there are ten thousand numbers in a scrape, and a call for each is what it
    would cost.
    """
    upto = cumulative(buckets)
    return map(
        _histogram,
        upto[:, -1].tolist(),
        sums,
        _classic(upto),
        buckets[:, 0].tolist(),
        *_native(buckets),
    )


def _histogram(
    count: int, total: float, classic: bytes, zero: int, spans: bytes, deltas: bytes
) -> bytes:
    return b"".join(
        (
            *(_COUNT, _varint(count), _SUM, _double(total), classic),
            *(_SCHEMA_AND_ZERO, _varint(zero), spans, _bytes(13, deltas) if deltas else b""),
        )
    )


def _classic(upto: NDArray[np.uint64]) -> list[bytes]:
    """A row's Buckets, one for each bound, of the counts up to it."""
    septets, kept = _varints(upto)
    *shape, width = septets.shape
    told = np.empty((*shape, _BUCKET + width + _BOUNDS.shape[1]), np.uint8)
    told[..., 0] = _BUCKET_KEY
    told[..., 1] = kept.sum(axis=-1) + 1 + _BOUNDS.shape[1]
    told[..., 2] = _COUNT[0]
    told[..., _BUCKET : -_BOUNDS.shape[1]] = septets
    told[..., -_BOUNDS.shape[1] :] = _BOUNDS
    whole = np.ones(told.shape, np.bool_)
    whole[..., _BUCKET : -_BOUNDS.shape[1]] = kept
    return _rows(told, whole)


def _native(buckets: NDArray[np.uint64]) -> tuple[list[bytes], list[bytes]]:
    """A row's BucketSpans: from the first to the last count that is not 0, then what is above all.

    With them the counts' differences, packed.
    """
    positive, above = buckets[:, 1:-1].astype(np.int64), buckets[:, -1].astype(np.int64)
    held = positive > 0
    some = held.any(axis=1)
    first = np.where(some, held.argmax(axis=1), 0)
    end = np.where(some, held.shape[1] - held[:, ::-1].argmax(axis=1), 0)
    last = np.where(some, positive[np.arange(len(positive)), end - 1], 0)
    deltas = np.concatenate((np.diff(positive, axis=1, prepend=0), (above - last)[:, None]), axis=1)
    at = np.arange(held.shape[1])
    within = (at >= first[:, None]) & (at < end[:, None])
    told = np.concatenate((within, above[:, None] > 0), axis=1)
    septets, kept = _varints((deltas << 1 ^ deltas >> 63).astype(np.uint64))
    spans = list(map(_spans, first.tolist(), end.tolist(), (above > 0).tolist()))
    return spans, _rows(septets, kept & told[..., None])


@lru_cache(maxsize=1 << 13)
def _spans(first: int, end: int, above: bool) -> bytes:
    """BucketSpans of the positive buckets [first, end), and of the one above all."""
    spans = [(FIRST + first, end - first)] if end else []
    if above:
        spans.append((OVERFLOW - (FIRST + end if end else 0), 1))
    return b"".join(_bytes(12, _span(*span)) for span in spans)


def _varints(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(..., width) bytes for each value, and which of them are its varint."""
    width = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
    parts = values[..., None] >> np.arange(0, 7 * width, 7, dtype=np.uint64)
    more = parts > 0x7F
    kept = np.ones(parts.shape, np.bool_)
    kept[..., 1:] = more[..., :-1]
    return np.where(more, parts | 0x80, parts).astype(np.uint8), kept


def _rows(told: NDArray[np.uint8], kept: NDArray[np.bool_]) -> list[bytes]:
    """The bytes kept of each row."""
    data = told[kept].tobytes()
    ends = kept.reshape(len(kept), -1).sum(axis=1).cumsum().tolist()
    return [data[start:end] for start, end in pairwise((0, *ends))]


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


@lru_cache(maxsize=1 << 7)
def _heads(family: Family, labels: tuple[tuple[str, ...], ...]) -> tuple[bytes, ...]:
    """A family's counters or gauges, each a Metric up to the eight bytes of its value."""
    value = _bytes(_VALUE_FIELDS[family.kind], _key(1, _DOUBLE) + bytes(8))
    return tuple(_bytes(4, _labels(family.labels, values) + value)[:-8] for values in labels)


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
_BUCKET_KEY: Final = _key(3, _BYTES)[0]
_BUCKET: Final = 3
"""A Bucket up to its count: its key, its length, the count's key."""
_BOUNDS: Final = np.array(
    [list(_key(2, _DOUBLE) + _double(le)) for le in (*BOUNDS_S, math.inf)], np.uint8
)
"""After the count."""
_SCHEMA_AND_ZERO: Final = (
    _key(5, _VARINT)
    + _varint(_zigzag(histogram.SCHEMA))
    + _key(6, _DOUBLE)
    + _double(histogram.BOUNDS_S[0])
    + _key(7, _VARINT)
)
"""The format's own scale, and the zero bucket up to its count."""
