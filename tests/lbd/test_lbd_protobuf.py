"""Prometheus' protobuf format: what another decoder reads is what was written; native histograms.

The schema here is the part of prometheus/client_model's metrics.proto that the daemon writes.
"""

from __future__ import annotations

import math
import urllib.request
from collections.abc import Callable
from functools import cache
from typing import Any

import lbd_daemon as ld
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from lbd_backends import Backend, echo
from lbd_client import ask, settled
from lbd_waiting import until

from lbd.exposition import Family, quality
from lbd.protobuf_format import MEDIA_TYPE, PARAMETERS, ProtobufExposition
from lbd.text_format import BOUNDS_S, TextExposition
from shm import histogram

Make = Callable[..., Backend]
Start = Callable[..., ld.Daemon]

# As a Prometheus 2.42 with native histograms asks, and one without.
NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
TEXT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "LabelPair": {1: ("name", "STRING"), 2: ("value", "STRING")},
    "Gauge": {1: ("value", "DOUBLE")},
    "Counter": {1: ("value", "DOUBLE")},
    "Bucket": {1: ("cumulative_count", "UINT64"), 2: ("upper_bound", "DOUBLE")},
    "BucketSpan": {1: ("offset", "SINT32"), 2: ("length", "UINT32")},
    "Histogram": {
        1: ("sample_count", "UINT64"),
        2: ("sample_sum", "DOUBLE"),
        3: ("bucket", "Bucket*"),
        5: ("schema", "SINT32"),
        6: ("zero_threshold", "DOUBLE"),
        7: ("zero_count", "UINT64"),
        12: ("positive_span", "BucketSpan*"),
        13: ("positive_delta", "SINT64*"),
    },
    "Metric": {
        1: ("label", "LabelPair*"),
        2: ("gauge", "Gauge"),
        3: ("counter", "Counter"),
        7: ("histogram", "Histogram"),
    },
    "MetricFamily": {
        1: ("name", "STRING"),
        2: ("help", "STRING"),
        3: ("type", "INT32"),
        4: ("metric", "Metric*"),
    },
}


@cache
def metric_family() -> Any:
    """The message class, from MESSAGES."""
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="p", syntax="proto2")
    for message, fields in MESSAGES.items():
        added = file.message_type.add(name=message)
        for number, (name, kind) in fields.items():
            base = kind.rstrip("*")
            label = "LABEL_REPEATED" if kind.endswith("*") else "LABEL_OPTIONAL"
            field = added.field.add(name=name, number=number, label=label)
            if base in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".p.{base}"
            else:
                field.type = getattr(field, f"TYPE_{base}")
                field.options.packed = kind == "SINT64*"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.MetricFamily"))


def decoded(body: bytes) -> list[Any]:
    """The families, each after its length."""
    kind, found, at = metric_family(), [], 0
    while at < len(body):
        size = shift = 0
        while True:
            byte = body[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append(kind.FromString(body[at : at + size]))
        at += size
    return found


def native(told: Any) -> dict[float, int]:
    """{upper bound: count} of a Histogram's native buckets, the zero bucket among them."""
    found = {told.zero_threshold: told.zero_count} if told.zero_count else {}
    deltas, index, count = iter(told.positive_delta), 0, 0
    for span in told.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            bound = index / 2**told.schema
            if count:
                found[2**bound if bound <= 1023 else math.inf] = count
            index += 1
    assert next(deltas, None) is None
    return found


def test_counters_and_gauges_are_told_with_their_labels() -> None:
    out = ProtobufExposition()
    out.add(Family("a_total", "counter", "A.", ("x", "y")), [(("1", 'ü"\\\n'), 7), (("2", ""), 0)])
    out.add(Family("b", "gauge", "B, with a text longer than 127 bytes. " * 5), [((), -1.5)])
    out.add(Family("empty", "gauge", "No samples."), [])
    a, b = decoded(out.body())
    assert (a.name, a.help, a.type) == ("a_total", "A.", 0)
    assert [{pair.name: pair.value for pair in one.label} for one in a.metric] == [
        {"x": "1", "y": 'ü"\\\n'},
        {"x": "2", "y": ""},
    ]
    assert [one.counter.value for one in a.metric] == [7, 0]
    assert (b.name, b.type, b.metric[0].gauge.value) == ("b", 1, -1.5)


LAST = len(histogram.BOUNDS_S)
COUNTS: list[dict[int, int]] = [
    {},
    {0: 3},
    {1: 1},
    {LAST - 1: 2},
    {LAST: 5},
    {0: 1, 20: 300, 21: 1 << 40, 60: 2, LAST: 9},
    {at: 127 + at for at in range(LAST + 1)},
]


@pytest.mark.parametrize("rows", [*([counts] for counts in COUNTS), COUNTS])
def test_histograms_are_told_in_native_and_in_classic_buckets(rows: list[dict[int, int]]) -> None:
    buckets = np.array([[counts.get(at, 0) for at in range(LAST + 1)] for counts in rows], "<u8")
    labels = [(f"b{row}",) for row in range(len(rows))]
    sums = [12.5 + row for row in range(len(rows))]
    out = ProtobufExposition()
    out.add_histogram(Family("h", "histogram", "H.", ("x",)), labels, buckets, sums)
    (family,) = decoded(out.body())
    assert family.type == 4
    assert [(one.label[0].name, one.label[0].value) for one in family.metric] == [
        ("x", name) for (name,) in labels
    ]
    for one, counts, total in zip(family.metric, rows, sums, strict=True):
        told = one.histogram
        assert (told.sample_count, told.sample_sum) == (sum(counts.values()), total)
        bounds = (*histogram.BOUNDS_S, math.inf)
        assert native(told) == pytest.approx({bounds[at]: count for at, count in counts.items()})
        assert [bucket.upper_bound for bucket in told.bucket] == [*BOUNDS_S, math.inf]
        for bucket in told.bucket:
            within = sum(n for at, n in counts.items() if bounds[at] <= bucket.upper_bound)
            assert bucket.cumulative_count == within


@given(st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=40))
def test_numbers_are_spelled_as_the_other_encoder_spells_them(numbers: list[int]) -> None:
    """As many histograms of one count each: the reader's library would spell them the same."""
    buckets = np.zeros((len(numbers), LAST + 1), "<u8")
    buckets[:, 7] = numbers
    out = ProtobufExposition()
    labels = [(str(row),) for row in range(len(numbers))]
    out.add_histogram(Family("h", "histogram", "H.", ("x",)), labels, buckets, [0.0] * len(numbers))
    (family,) = decoded(out.body())
    for number, one in zip(numbers, family.metric, strict=True):
        assert one.histogram.sample_count == number
        assert native(one.histogram) == ({histogram.BOUNDS_S[7]: number} if number else {})
    body = out.body()
    assert family.SerializeToString() == body[len(body) - family.ByteSize() :]


def test_no_histograms_no_family() -> None:
    for out in (ProtobufExposition(), TextExposition()):
        none = np.zeros((0, LAST + 1), "<u8")
        out.add_histogram(Family("h", "histogram", "H.", ("x",)), [], none, [])
        assert out.body().strip() == b""


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (NATIVE, 1.0),
        (NATIVE.replace("delimited,", "delimited; q=0.6 ,"), 0.6),
        (NATIVE.replace("delimited", "text"), 0.0),
        (NATIVE.replace("delimited,", "delimited;q=best,"), 0.0),
        (TEXT, 0.0),
        ("*/*", 0.0),
        ("", 0.0),
    ],
)
def test_what_a_scraper_wants(accept: str, wanted: float) -> None:
    assert quality(accept, MEDIA_TYPE, **PARAMETERS) == wanted


def test_a_scraper_gets_the_format_that_it_prefers(daemon: Start, backend: Make) -> None:
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(ld.service([backend(echo).address]), metrics=metrics)

    def fetch(accept: str) -> tuple[str, bytes]:
        asked = urllib.request.Request(f"http://{metrics}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.headers["Content-Type"], answer.read()

    kind, body = fetch(NATIVE)
    assert kind == ProtobufExposition.content_type
    told = {family.name for family in decoded(body)}
    for accept in (TEXT, NATIVE.replace("delimited,", "delimited;q=0.4,"), "*/*"):
        kind, body = fetch(accept)
        assert kind.startswith("text/plain; version=0.0.4")
        lines = [line.split() for line in body.decode().splitlines()]
        assert {words[2] for words in lines if words[:2] == ["#", "TYPE"]} == told


def test_a_real_prometheus_takes_native_histograms(
    daemon: Start, backend: Make, prometheus: Callable[..., Callable[[str], float | None]]
) -> None:
    service = ld.service([backend(echo).address])
    metrics = f"127.0.0.1:{ld.free_port()}"
    daemon(service, metrics=metrics)
    for _ in range(20):
        ask(service)
    settled(service["name"], 20)
    query = prometheus(metrics, "--enable-feature=native-histograms")
    kind = "lbd_server_total_time_seconds"
    # These functions know native histograms only.
    until(lambda: query(f"histogram_count({kind})") == 20, "Prometheus to know of the flows")
    total_s = query(f"histogram_sum({kind})")
    assert total_s is not None
    assert 0 < total_s < 20 * 64
    shares = [
        query(f"histogram_fraction(0, {bound}, {kind})") for bound in (0.0000152587890625, 64)
    ]
    assert shares[1] == 1
    median_s = query(f"histogram_quantile(0.5, {kind})")
    assert median_s is not None
    assert 0 < median_s < 64
    assert query("lbd_frontend_connections_total") == 20
    assert query("lbd_process_workers") == 1
