"""The torch networks: the actor of `agent.act.network` once more, with gradients, and the critics.

Lives here: modules and their shapes. Never here: losses, optimisers, replay.
Upstream: `agent.learn.replay` (batches). Downstream: `agent.learn.sac`.

Dimensions: T steps, B chunks, N padded backends, F features, S service features, H hidden. A GRU
runs time-major over B * N rows; padded rows are computed and masked out of every mean, maximum and
loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu

from agent.act.network import LOG_STD_MAX, LOG_STD_MIN, SUMMARY_INPUT, checked
from agent.observe import FEATURE_COUNT
from agent.settings import ACTIONS, HIDDEN


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over backends. values (…, B, N), mask (B, N) of 0 and 1 -> (…, B)."""
    return (values * mask).sum(-1) / mask.sum(-1)


class Memory(nn.Module):
    """Shared encoder, pooled summary, GRU a backend: the trunk of actor and critics."""

    def __init__(self) -> None:
        super().__init__()
        self.encode1 = nn.Linear(FEATURE_COUNT, HIDDEN)
        self.encode2 = nn.Linear(HIDDEN, HIDDEN)
        self.summary = nn.Linear(SUMMARY_INPUT, HIDDEN)
        self.gru = nn.GRU(HIDDEN, HIDDEN)

    def remember(
        self, features: Tensor, service: Tensor, mask: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """features (T, B, N, F), service (T, B, S), mask (B, N), hidden (B, N, H).

        Returns memory (T, B, N, H), the sum of the GRU's input and output at every step, and the
        GRU's last state (B, N, H).
        """
        steps, chunks, count, _ = features.shape
        x = relu(self.encode2(relu(self.encode1(features))))  # (T, B, N, H)
        weight = (mask / mask.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, N, 1)
        mean = (x * weight).sum(2)  # (T, B, H)
        # x >= 0 after the ReLU, so a padded row multiplied to 0 never wins over a real one.
        largest = (x * mask.unsqueeze(-1)).amax(2)  # (T, B, H)
        summary = self.summary(torch.cat((mean, largest, service), -1))  # (T, B, H)
        x = x + summary.unsqueeze(2)  # (T, B, N, H)
        out, last = self.gru(
            x.reshape(steps, chunks * count, HIDDEN), hidden.reshape(1, chunks * count, HIDDEN)
        )
        return x + out.reshape(x.shape), last.reshape(chunks, count, HIDDEN)

    def at_once(self, features: Tensor, service: Tensor, mask: Tensor) -> Tensor:
        """What `remember` gives if memory is zero before every step, (T, B, N, H)."""
        steps = features.shape[0]
        rows = mask.repeat(steps, 1)  # (T * B, N)
        hidden = torch.zeros(*rows.shape, HIDDEN)
        out, _ = self.remember(
            features.flatten(0, 1)[None], service.flatten(0, 1)[None], rows, hidden
        )
        return out.reshape(steps, *mask.shape, HIDDEN)


class Actor(Memory):
    """Gaussian policy a backend, before the tanh. Parameter names are those of the numpy actor."""

    def __init__(self) -> None:
        super().__init__()
        self.decide1 = nn.Linear(HIDDEN, HIDDEN)
        self.decide2 = nn.Linear(HIDDEN, 2 * len(ACTIONS))

    def decide(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory (…, H) -> mean, log_std (…, A), the latter in [LOG_STD_MIN, LOG_STD_MAX]."""
        out = self.decide2(relu(self.decide1(memory)))
        span = 0.5 * (LOG_STD_MAX - LOG_STD_MIN)
        mean, spread = out.chunk(2, -1)
        return mean, LOG_STD_MIN + span * (torch.tanh(spread) + 1.0)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the parameters for `agent.act.network`."""
        return {name: p.detach().numpy().copy() for name, p in self.named_parameters()}

    def load_arrays(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Raises ParameterError on arrays that do not fit."""
        fitting = checked(arrays)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.from_numpy(fitting[name]))


class Critic(Memory):
    """Q of a set of backends is the mean over them of a head a backend.

    The GRU sees what was observed, the last action among it; the action to be judged joins after
    the GRU. One pass over the observations thus serves stored and new actions alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.judge1 = nn.Linear(HIDDEN + len(ACTIONS), HIDDEN)
        self.judge2 = nn.Linear(HIDDEN, 1)

    def heads(self, memory: Tensor, u: Tensor, mask: Tensor) -> Tensor:
        """memory (T, B, N, H), u (T, B, N, A), mask (B, N) -> a value a backend (T, B, N).

        Of u the critic sees what counts: the factor centred over the backends, as the weights are,
        and of the rest the mean over them.
        """
        share = (mask / mask.sum(-1, keepdim=True)).unsqueeze(-1)  # (B, N, 1)
        mean = (u * share).sum(2, keepdim=True)  # (T, B, 1, A)
        factor = u[..., :1] - mean[..., :1]
        rest = mean[..., 1:].expand(*factor.shape[:-1], -1)
        x = torch.cat((memory, factor, rest), -1)  # (T, B, N, H + A)
        heads: Tensor = self.judge2(relu(self.judge1(x))).squeeze(-1)  # (T, B, N)
        return heads
