"""A network that does the best by what it sees: trained on privileged tables.

Lives here: the loss and its loop, in torch. Never here: simulation.
The loss of an action is what the scenario's table says it costs, interpolated between the grid's
points and blurred, for interpolation alone has kinks at those points that hold a network; where the
table is flat nothing is learned, and where the best cannot be told from what is seen the network
does what is best in the mean. The GRU is run over whole sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agent.learn.networks import Actor
from agent.settings import ACTIONS, HIDDEN
from testbed.train.rollouts import Sequence as Seen
from testbed.train.tables import BUSY_U, MEMORIES_U, OFFSETS_U

Float32 = NDArray[np.float32]

AXES = (OFFSETS_U, MEMORIES_U, BUSY_U)

LOOKS = 2
"""At a table a step, each blurred differently."""
OUTSIDE = 0.5

WATCHED = 512
"""Sequences that a look at scenarios left out takes."""


@dataclass(frozen=True)
class Example:
    """A sequence, and what its scenario cost at that time (OFFSETS, MEMORIES, BUSY)."""

    seen: Seen
    costs: Float32


@dataclass(frozen=True)
class Settings:
    """updates of batch sequences of `steps` steps; the first `warm` of them are not judged.

    Short sequences of many scenarios generalise better than long ones of few: what tells the best
    place changes little from step to step.

    lr falls to a tenth by a cosine. away: weight of the factor, of which no table tells.
    steady: weight of the change of the actions from step to step. recurrent: False trains for a
    policy whose memory is held at zero. average: of the parameters, which are a running average
    over the updates; so much of the one before is kept at each. blur: how far from the place a
    cost is looked up, at most, in cells of the grid. clip: costs beyond count as this.
    """

    updates: int = 600
    batch: int = 64
    steps: int = 24
    warm: int = 8
    lr: float = 1e-3
    away: float = 0.02
    steady: float = 0.02
    recurrent: bool = True
    average: float = 0.98
    blur: float = 0.6
    clip: float = 0.4
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Time first, backends padded: features (T, B, N, F), service (T, B, S), mask (B, N),
    costs (B, OFFSETS, MEMORIES, BUSY)."""

    features: Tensor
    service: Tensor
    mask: Tensor
    costs: Tensor


def train(
    examples: Sequence[Example],
    settings: Settings,
    begin: Mapping[str, Float32],
    report: Callable[[int, float, Actor], None],
) -> dict[str, Float32]:
    """Parameters after `settings.updates`, from `begin`; `report(update, loss, actor)` at each."""
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    actor = Actor()
    actor.load_arrays(begin)
    optimiser = torch.optim.Adam(actor.parameters(), settings.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, settings.updates, 0.1 * settings.lr
    )
    averaged = AveragedModel(actor, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    for update in range(settings.updates):
        batch = draw(examples, settings, rng)
        loss = judge(actor, batch, settings)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(actor)
        report(update, float(loss.detach()), averaged.module)
    return averaged.module.arrays()


def cost(actor: Actor, examples: Sequence[Example], settings: Settings) -> float:
    """What the tables of these say of an actor, in the mean over `WATCHED` sequences."""
    rng = np.random.default_rng(settings.seed)
    alone = replace(settings, batch=WATCHED, away=0.0, steady=0.0, blur=0.0)
    with torch.no_grad():
        return float(judge(actor, draw(examples, alone, rng), alone))


def judge(actor: Actor, batch: Batch, settings: Settings) -> Tensor:
    """The mean loss of a batch."""
    if settings.recurrent:
        hidden = torch.zeros(*batch.mask.shape, HIDDEN)
        memory, _ = actor.remember(batch.features, batch.service, batch.mask, hidden)
    else:
        memory = actor.at_once(batch.features, batch.service, batch.mask)
    mean, _ = actor.decide(memory[settings.warm :])
    u = torch.tanh(mean)  # (T, B, N, A)
    share = batch.mask / batch.mask.sum(-1, keepdim=True)  # (B, N)
    places = {name: (u[..., at] * share).sum(-1) for at, name in enumerate(ACTIONS)}  # (T, B)
    away = (u[..., ACTIONS.index("factor")].square() * share).sum(-1)
    change = (u[1:] - u[:-1]).square().mean(-1)
    steady = (change * share).sum(-1).mean()
    at = places["offset"], places["memory"], places["busy"]
    costs = batch.costs.clamp(-settings.clip, settings.clip)
    looks = [interpolate(costs, *_blurred(at, settings.blur)) for _ in range(LOOKS)]
    beyond = sum(_beyond(u, points) for points, u in zip(AXES, at, strict=True))
    cost = sum(looks) / LOOKS + OUTSIDE * beyond
    # A spread that is wide apart of the ends is only for learning online: it is left as it is.
    return cost.mean() + settings.away * away.mean() + settings.steady * steady


def _blurred(places: Sequence[Tensor], blur: float) -> list[Tensor]:
    """Each (T, B) moved by up to `blur` cells of its axis, evenly, every time elsewhere."""
    cells = [(points[-1] - points[0]) / (len(points) - 1) for points in AXES]
    return [
        place + blur * cell * (2.0 * torch.rand_like(place) - 1.0)
        for place, cell in zip(places, cells, strict=True)
    ]


def _beyond(place: Tensor, points: Sequence[float]) -> Tensor:
    """How far outside of the grid, squared: there interpolation is flat, and tells nothing."""
    return (place - place.clamp(points[0], points[-1])).square()


def draw(examples: Sequence[Example], settings: Settings, rng: np.random.Generator) -> Batch:
    """`settings.batch` sequences from their beginnings, backends padded by zeros."""
    chosen = [examples[at] for at in rng.integers(len(examples), size=settings.batch)]
    steps = min([settings.steps, *(len(example.seen.features) for example in chosen)])
    most = max(example.seen.features.shape[1] for example in chosen)
    count, width = len(chosen), chosen[0].seen.features.shape[2]
    features = np.zeros((steps, count, most, width), np.float32)
    service = np.zeros((steps, count, chosen[0].seen.service.shape[1]), np.float32)
    mask = np.zeros((count, most), np.float32)
    for b, example in enumerate(chosen):
        seen = example.seen
        backends = seen.features.shape[1]
        features[:, b, :backends] = seen.features[:steps]
        service[:, b] = seen.service[:steps]
        mask[b, :backends] = 1.0
    return Batch(
        torch.from_numpy(features),
        torch.from_numpy(service),
        torch.from_numpy(mask),
        torch.from_numpy(np.stack([example.costs for example in chosen])),
    )


def interpolate(costs: Tensor, offset_u: Tensor, memory_u: Tensor, busy_u: Tensor) -> Tensor:
    """costs (B, I, K, S) at places (T, B) each, linear along each axis, flat beyond the edges."""
    axes = zip(AXES, (offset_u, memory_u, busy_u), strict=True)
    (i, i_share), (k, k_share), (s, s_share) = (_place(u, points) for points, u in axes)
    batch = torch.arange(costs.shape[0]).expand_as(i)

    def along_busy(row: Tensor, column: Tensor) -> Tensor:
        low, high = costs[batch, row, column, s], costs[batch, row, column, s + 1]
        return (1 - s_share) * low + s_share * high

    def along_memory(row: Tensor) -> Tensor:
        return (1 - k_share) * along_busy(row, k) + k_share * along_busy(row, k + 1)

    return (1 - i_share) * along_memory(i) + i_share * along_memory(i + 1)


def _place(value: Tensor, points: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The interval that holds each value, and how far along it is, in [0, 1]."""
    grid = torch.tensor(points, dtype=torch.float32)
    held = value.clamp(points[0], points[-1])
    below = (torch.searchsorted(grid, held.detach().contiguous(), right=True) - 1).clamp(
        0, len(points) - 2
    )
    return below, (held - grid[below]) / (grid[below + 1] - grid[below])
