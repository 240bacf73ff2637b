"""An episode as text, on the terminal, or as a picture.

Lives here: display. Never here: anything that changes the episode.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from testbed.sim.env.game import Game

Mode = Literal["human", "ansi", "rgb_array"]
Floats = NDArray[np.float64]

SIZE_INCHES = (6.4, 3.6)
DOTS_PER_INCH = 100


def check_mode(mode: str | None) -> None:
    """Raises ValueError for what is no mode."""
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"no render mode {mode!r}; known: {', '.join(get_args(Mode))}")


@dataclass(frozen=True)
class Frame:
    """A moment, N backends. capacity, share (N,): of the service's capacity and of the flows
    accepted so far. busy_s (N,): time to finish the jobs there at the mean size. weight (M, N): of
    each led balancer, mean 1.
    """

    title: str
    slots: NDArray[np.int64]
    capacity: Floats
    share: Floats
    jobs: Floats
    busy_s: Floats
    weight: Floats


def frame(game: Game) -> Frame:
    """What the episode looks like now."""
    world = game.run.world
    slots = np.flatnonzero(world.present)
    capacity, jobs = world.capacity_per_s()[slots], world.jobs()[slots]
    accepted = world.state.views["accepted"][:, slots].sum(axis=0)
    weight = world.state.weight[np.array(game.led)][:, slots]
    return Frame(
        title=f"{world.scenario.name}, {game.now_s:.2f} s",
        slots=slots,
        capacity=capacity / capacity.sum(),
        share=accepted / max(accepted.sum(), 1),
        jobs=jobs,
        busy_s=jobs / capacity,
        weight=weight / weight.mean(axis=1, keepdims=True),
    )


def table(seen: Frame) -> Table:
    """One row a backend, one column of weights a led balancer."""
    shown = Table(title=seen.title)
    for column in ("backend", "capacity", "share", "jobs", "seconds of work"):
        shown.add_column(column, justify="right")
    for number in range(len(seen.weight)):
        shown.add_column(f"weight {number}" if len(seen.weight) > 1 else "weight", justify="right")
    for row, slot in enumerate(seen.slots):
        shown.add_row(
            str(slot),
            f"{seen.capacity[row]:.1%}",
            f"{seen.share[row]:.1%}",
            f"{seen.jobs[row]:.0f}",
            f"{seen.busy_s[row]:.3f}",
            *(f"{weight:.2f}" for weight in seen.weight[:, row]),
        )
    return shown


class Renderer:
    """`show` gives text for `ansi`, an (H, W, 3) u8 array for `rgb_array`, and else None."""

    def __init__(self, mode: str | None) -> None:
        self._mode = mode
        self._figure: Any = None

    def show(self, game: Game) -> Any:
        if self._mode is None:
            return None
        seen = frame(game)
        if self._mode == "rgb_array":
            return self._picture(seen)
        if self._mode == "human":
            Console().print(table(seen))
            return None
        text = io.StringIO()
        Console(file=text, width=100).print(table(seen))
        return text.getvalue()

    def close(self) -> None:
        self._figure = None

    def _picture(self, seen: Frame) -> NDArray[np.uint8]:
        # Not by pyplot, which keeps every figure; and only for whoever wants pictures.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if self._figure is None:
            self._figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="tight")
            FigureCanvasAgg(self._figure)
        figure = self._figure
        figure.clear()
        above, below = figure.subplots(2, 1, sharex=True)
        at = np.arange(len(seen.slots))
        above.bar(at, seen.busy_s, color="C0")
        above.set(title=seen.title, ylabel="seconds of work")
        below.bar(at - 0.2, seen.capacity / seen.capacity.mean(), 0.4, label="capacity", color="C7")
        below.bar(at + 0.2, seen.weight.mean(axis=0), 0.4, label="weight", color="C1")
        below.set(xticks=at, xlabel="backend", ylabel="over its mean")
        below.set_xticklabels([str(slot) for slot in seen.slots])
        below.legend(fontsize=8, loc="upper left")
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
