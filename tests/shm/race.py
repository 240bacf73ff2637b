"""Readers that race writers in other processes, and count what they see torn.

    python tests/shm/race.py --reads 10000000

Lives here: the race and its negative control. Never here: assertions (`test_shm_race.py`).

For each of counters, weights and samples one process writes as fast as it can, with the writer that
the product uses, and another reads with the reader that the product uses. Every word of a frame and
of a sample is derived from one number in it, so that a reader can tell whether all it got was
written together. The ring has two frames, the least there may be, so that the writer comes round as
often as it can.

What counts as a read: of counters and weights, one whole frame that `FrameRing.read` returned and
that was then verified, every word; of samples, one slot of a reservoir that `read_samples` returned
as a sample (t > 0), verified too. `retried` are the frames that had to be copied again, and the
samples in flux that were left out; neither is in `reads`. `gave up` are frame reads that returned
nothing after all their attempts; they are not in `reads` either. `distinct` are the frames among
the reads, respectively the passes over the reservoirs, that differ from the one before: whether
there was a race at all.

The control is the same reader process, writer and verification, with a careless reader: it takes
the newest frame word by word and does not look again; it takes all t of the samples and then all
values. (One copy of the whole is torn as well, but seldom: one in some ten thousand.) It must see
torn ones: a test that cannot fail shows nothing. It goes on after its `--control` reads until it
has seen one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from shm import segment
from shm.frames import FrameRing
from shm.layout import FRAME_HEAD_WORDS, SAMPLE_WORDS, W_OFFSET, WEIGHT_HEAD_WORDS, Layout
from shm.region import Region
from shm.reservoir import read_samples
from shm.weights import AgentBlock
from shm.worker import WorkerBlock, cache_view

KINDS = ("counters", "weights", "samples")
LAYOUT = Layout(workers=1, slots=64, reservoir=4, depth=2)
HOT = 2  # backends whose reservoirs are raced for; few slots, so that each changes often
FACTOR = 0x9E3779B97F4A7C15  # odd, so that no two numbers share a body
MASK = 2**64 - 1
CONTROL_LIMIT = 1_000_000  # copies after which a control that saw nothing torn gives up
DISTINCT = 100  # a reader goes on until it has met so many changes: cores may be busy elsewhere


class Counted(np.ndarray):
    """Memory that counts the copies of it; the reader under test does not know."""

    copies = 0

    def copy(self, order: Any = "C") -> np.ndarray:
        Counted.copies += 1
        return np.array(self, order=order)


def write(region: Region, kind: str) -> None:
    """Write until the parent is gone."""
    parent = os.getppid()
    step = {"counters": _counters, "weights": _weights, "samples": _samples}[kind](region)
    number = 0
    while os.getppid() == parent:
        for _ in range(64):
            number += 1
            step(number)
        if number == 64:
            print("up", flush=True)


def _counters(region: Region) -> Callable[[int], None]:
    block = WorkerBlock(region, 0)
    cache = cache_view(region, 0)
    order = np.arange(cache.size, dtype=np.uint64).reshape(cache.shape)

    def step(number: int) -> None:
        np.add(order, np.uint64(number * FACTOR & MASK), out=cache)
        block.publish(number)

    return step


def _weights(region: Region) -> Callable[[int], None]:
    agent = AgentBlock(region)
    slots = np.arange(LAYOUT.slots)
    order = slots.astype(np.uint64)

    def step(number: int) -> None:
        identity = order + np.uint64(number * FACTOR & MASK)
        agent.publish(slots, identity, order * 0.5 + number, number, number + 1)

    return step


def _samples(region: Region) -> Callable[[int], None]:
    block = WorkerBlock(region, 0)

    def step(number: int) -> None:
        block.sample_duration(number % HOT, number, number * FACTOR & MASK)

    for number in range(1, 100 * HOT * LAYOUT.reservoir):
        # Full from the start: a slot seen empty later is one in flux.
        step(number)

    return step


def read(region: Region, kind: str, reads: int, control: int) -> dict[str, int]:
    """What the reader and its control saw."""
    if kind == "samples":
        return _read_samples(region, reads, control)
    return _read_frames(region, kind, reads, control)


def _read_frames(region: Region, kind: str, reads: int, control: int) -> dict[str, int]:
    layout = region.layout
    if kind == "counters":
        place = (layout.frame(0, 0), layout.frame_words, layout.depth)
        whole = _whole_counters(layout)
    else:
        place = (layout.weight_frame(0), layout.weight_frame_words, layout.depth)
        whole = _whole_weights(layout, region.generation)
    ring = FrameRing(region.u64.view(Counted), *place)
    done = torn = gave_up = distinct = last = 0
    while done < reads or distinct < DISTINCT:
        frame = ring.read()
        if frame is None:
            gave_up += 1
            continue
        done += 1
        torn += not whole(frame)
        sequence = int(frame[0])
        distinct += sequence != last
        last = sequence

    first, words, depth = place
    sequences = region.u64[first : first + words * depth : words]
    seen = control_torn = 0
    while seen < control or (not control_torn and seen < CONTROL_LIMIT):
        seen += 1
        at = first + int(sequences.argmax()) * words
        control_torn += not whole(np.fromiter(region.words[at : at + words], np.uint64, words))
    return {
        "reads": done,
        "torn": torn,
        "retried": Counted.copies - done,
        "gave_up": gave_up,
        "distinct": distinct,
        "control_reads": seen,
        "control_torn": control_torn,
    }


def _whole_counters(layout: Layout) -> Callable[[np.ndarray], bool]:
    order = np.arange(layout.cache_words, dtype=np.uint64)

    def whole(frame: np.ndarray) -> bool:
        start = np.uint64(int(frame[1]) * FACTOR & MASK)
        # The sequence is the number: the writer numbers its frames from 1 as the ring does.
        return bool(frame[0] == frame[1] and (frame[FRAME_HEAD_WORDS:] - order == start).all())

    return whole


def _whole_weights(layout: Layout, generation: int) -> Callable[[np.ndarray], bool]:
    order = np.arange(layout.slots, dtype=np.uint64)
    weight_order = order * 0.5
    identities = slice(WEIGHT_HEAD_WORDS, WEIGHT_HEAD_WORDS + layout.slots)

    def whole(frame: np.ndarray) -> bool:
        number = int(frame[0])
        start = np.uint64(number * FACTOR & MASK)
        return bool(
            frame[1:W_OFFSET].tolist() == [generation, number, number + 1]
            and (frame[identities] - order == start).all()
            and (frame[identities.stop :].view("<f8") - weight_order == number).all()
        )

    return whole


def _read_samples(region: Region, reads: int, control: int) -> dict[str, int]:
    layout = region.layout
    first = layout.reservoirs(0)
    shape = (layout.slots, layout.reservoir, SAMPLE_WORDS)
    live = region.u64[first : first + int(np.prod(shape))].reshape(shape)[:HOT]
    factor = np.uint64(FACTOR)
    done = torn = in_flux = distinct = 0
    last = np.zeros(live.shape, np.uint64)
    while done < reads or distinct < DISTINCT:
        pairs = read_samples(live, slice(None))
        found = pairs[..., 0] > 0
        done += int(found.sum())
        in_flux += int(found.size - found.sum())
        torn += int((pairs[..., 0] * factor != pairs[..., 1])[found].sum())
        distinct += not np.array_equal(pairs, last)
        last = pairs
    seen = copies = control_torn = 0
    while seen < control or (not control_torn and copies < CONTROL_LIMIT):
        copies += 1
        t_ns, value_ns = live[..., 0].copy(), live[..., 1].copy()
        found = t_ns > 0
        seen += int(found.sum())
        control_torn += int((t_ns * factor != value_ns)[found].sum())
    return {
        "reads": done,
        "torn": torn,
        "retried": in_flux,
        "gave_up": 0,
        "distinct": distinct,
        "control_reads": seen,
        "control_torn": control_torn,
    }


def race(kind: str, reads: int, control: int) -> dict[str, int]:
    """One writer, one reader, each a process of its own; nothing of them is left."""
    with ExitStack() as ends:
        region = Region.create(f"race-{os.getpid()}-{kind}", LAYOUT)
        ends.callback(region.remove)
        writer = _start(ends, region, "write", kind, 0, 0)
        assert writer.stdout is not None
        if not writer.stdout.readline():
            raise RuntimeError("the writer died at its start")
        reader = _start(ends, region, "read", kind, reads, control)
        out, _ = reader.communicate()
        if reader.returncode or writer.poll() is not None:
            raise RuntimeError("the reader or its writer died")
        found: dict[str, int] = json.loads(out)
        return found


def _start(ends: ExitStack, region: Region, role: str, *arguments: object) -> subprocess.Popen[str]:
    # Popen as a context closes the pipe and waits; the kill comes before it.
    process = subprocess.Popen(
        [sys.executable, __file__, "--role", role, region.service, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(segment.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    ends.enter_context(process)
    ends.callback(process.kill)
    return process


def _play(role: str, service: str, kind: str, reads: str, control: str) -> None:
    region = Region.attach(service)
    if role == "write":
        write(region, kind)
    else:
        print(json.dumps(read(region, kind, int(reads), int(control))))


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 nothing torn and every control saw some, 1 otherwise, 2 usage."""
    parser = argparse.ArgumentParser(description="Race readers against writers.")
    parser.add_argument("--reads", type=int, default=300_000, help="in total, over the kinds")
    parser.add_argument(
        "--control",
        type=int,
        default=50_000,
        help="reads of each control at least; it goes on until one is torn",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    parser.add_argument("--role", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.role:
        _play(*arguments.role)
        return 0
    total: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    fine = True
    for kind in KINDS:
        start_s = time.monotonic()
        found = race(kind, -(-arguments.reads // len(KINDS)), arguments.control)
        rows.append({"kind": kind, **found})
        if not arguments.json:
            print(_line(kind, found), f"({time.monotonic() - start_s:.0f} s)", flush=True)
        fine = fine and not found["torn"] and found["control_torn"] > 0
        total = {name: total.get(name, 0) + value for name, value in found.items()}
    rows.append({"kind": "total", **total})
    print(json.dumps(rows) if arguments.json else _line("total", total))
    return 0 if fine else 1


def _line(kind: str, found: dict[str, int]) -> str:
    return (
        f"{kind:8s} {found['reads']} reads, {found['torn']} torn, {found['retried']} retried, "
        f"{found['gave_up']} gave up, {found['distinct']} distinct; "
        f"control {found['control_torn']} torn of {found['control_reads']}"
    )


if __name__ == "__main__":
    sys.exit(main())
