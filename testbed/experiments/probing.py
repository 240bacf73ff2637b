"""Active probing: asks every server how busy it is, at several frequencies at once.

    python -m testbed.experiments.probing FILE.parquet HZ,HZ... NAME=HOST:PORT...

Lives here: the process and its table. Never here: how good what it learns is (`studies.probing`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import polars as pl

from testbed.experiments.asking import Asker, AskError
from testbed.kernel import end_with_parent

PROBES = {
    "at_s": pl.Float64,
    "hz": pl.Float64,
    "server": pl.String,
    "busy": pl.Int64,
    "cpu_s": pl.Float64,
    "taken_s": pl.Float64,
    "asking_s": pl.Float64,
    "took_s": pl.Float64,
    "wire_bytes": pl.Int64,
}
"""at_s: of CLOCK_MONOTONIC, when the answer was there, as asked for. taken_s: when the server took
it. asking_s: see `asking.Busy`. wire_bytes: question and answer."""


def main(argv: Sequence[str]) -> int:
    """Until SIGTERM; then the table is written."""
    end_with_parent(os.getppid())
    stop = Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    path, frequencies, *places = argv
    rows: list[tuple[Any, ...]] = []
    threads = []
    for text in frequencies.split(","):
        for place in places:
            server, _, address = place.partition("=")
            host, _, port = address.rpartition(":")
            asker = Asker(host, int(port))
            threads.append(Thread(target=_ask, args=(asker, server, float(text), rows, stop)))
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    pl.DataFrame(rows, schema=PROBES, orient="row").write_parquet(Path(path))
    return 0


def _ask(asker: Asker, server: str, hz: float, rows: list[tuple[Any, ...]], stop: Event) -> None:
    """A question that is not answered is one row less."""
    due_s = time.monotonic()
    while not stop.wait(max(0.0, due_s - time.monotonic())):
        began_s, before = time.monotonic(), asker.wire_bytes
        try:
            busy = asker.ask()
        except AskError:
            continue
        finally:
            due_s = max(due_s + 1 / hz, time.monotonic())
        now_s = time.monotonic()
        size = asker.wire_bytes - before
        took_s = now_s - began_s
        row = (now_s, hz, server, busy.jobs, busy.cpu_s, busy.at_s, busy.asking_s, took_s, size)
        rows.append(row)
    asker.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
