"""What a scrape costs the supervisor, and what histograms cost a flow.

Lives here: the measurement, on a region of its own in this process: no daemon, no HTTP.
"""

from __future__ import annotations

import os
import time
from math import log
from random import Random
from statistics import median
from typing import Any

from config.schema import Backend, Config, Service
from lbd.exposition import Exposition
from lbd.metrics import Metrics
from lbd.process_metrics import Process
from lbd.protobuf_format import ProtobufExposition
from lbd.text_format import TextExposition
from shm import layout as lo
from shm.histogram import HistogramWriter
from shm.layout import Layout
from shm.region import Region
from shm.worker import WorkerBlock

BACKENDS = 100
WORKERS = 2
SCRAPES = 50
FLOWS = 5_000
"""Of each backend and worker."""
SEED = 1
OBSERVATIONS = 200_000


def run() -> dict[str, Any]:
    """Medians of CPU time; a flow that completes makes three observations."""
    name = f"bench-scrape-{os.getpid()}"
    region = Region.create(name, Layout(WORKERS, 128, 128))
    try:
        return {
            "backends": BACKENDS,
            "workers": WORKERS,
            **_scrape(name, region),
            "observation_us": _observation_us(region),
        }
    finally:
        region.remove()


def _scrape(name: str, region: Region) -> dict[str, Any]:
    backends = tuple(
        Backend.model_validate({"name": f"b{n}", "address": f"10.0.0.1:{9000 + n}"})
        for n in range(BACKENDS)
    )
    service = Service.model_validate(
        {"name": name, "listen": "127.0.0.1:8080", "slots": 128, "backends": backends}
    )
    config = Config(workers=WORKERS, services=(service,))
    entries = [region.add_backend(b.name, str(b.address), b.weight) for b in backends]
    durations_ns = [_durations_ns(0.01 * (1 + kind)) for kind in range(len(lo.HISTOGRAMS))]
    for worker in range(WORKERS):
        block = WorkerBlock(region, worker)
        writer = HistogramWriter(region, worker)
        for entry in entries:
            block.adopt(entry.slot, entry.identity)
            for kind in range(len(lo.HISTOGRAMS)):
                for value_ns in durations_ns[kind]:
                    writer.observe(entry.slot, kind, value_ns)
            for row in lo.TOTALS:
                block.rows[row][entry.slot] = 1_000_003 * (1 + entry.slot)
        block.publish(time.monotonic_ns())
    metrics = Metrics(time.monotonic_ns())

    def timed(out: Exposition) -> tuple[float, bytes]:
        started_ns = time.process_time_ns()
        metrics.write(out, config, [region], Process(), time.monotonic_ns())
        body = out.body()
        return (time.process_time_ns() - started_ns) / 1e6, body

    # In turns: what else the machine does meanwhile falls on both.
    pairs = [(timed(TextExposition()), timed(ProtobufExposition())) for _ in range(SCRAPES)]
    text, protobuf = zip(*pairs, strict=True)
    lines = [line for line in text[-1][1].splitlines() if not line.startswith(b"#")]
    return {
        "samples": len(lines),
        "bytes": len(text[-1][1]),
        "first_ms": text[0][0],
        "scrape_ms": median(took_ms for took_ms, _ in text),
        "protobuf_bytes": len(protobuf[-1][1]),
        "protobuf_ms": median(took_ms for took_ms, _ in protobuf),
    }


def _durations_ns(median_s: float) -> list[int]:
    """As a backend's that has served for a while: log-normal, a factor of e a deviation."""
    draw = Random(SEED).lognormvariate
    return [int(draw(log(median_s), 1.0) * 1e9) for _ in range(FLOWS)]


def _observation_us(region: Region) -> float:
    observe = HistogramWriter(region, 0).observe
    started_ns = time.process_time_ns()
    for value_ns in range(0, OBSERVATIONS * 1000, 1000):
        observe(1, 0, value_ns)
    return (time.process_time_ns() - started_ns) / 1e3 / OBSERVATIONS
