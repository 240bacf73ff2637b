"""Distr-LB and RLB-SAC as published: balancers that learn alone, for a fixed number of servers.

Lives here: the networks, a balancer's replay, soft actor-critic, the rewards. Never here: features
(`testbed.papers.distr_features`), episodes, which agents there are (`testbed.papers.learned`).
Source: [MPG] Sec. 3.4, Alg. 2, App. D with Table 9 ("Simulation"); [RLB] Sec. 3.3, 4.6 and 4.8.

From the papers: the network of actor and critics, two fully connected layers, a GRU (Distr-LB
alone), two fully connected layers, ReLU, 64 units; the last action as an input of all of them; twin
critics with soft targets; one scalar reward a balancer; a target entropy of -|A|; learning rate,
batch, replay, and updates at an episode's end; learning begins when there are as many episodes as a
batch has sequences; nothing is shared between balancers.

Where the papers leave it open or contradict each other:

- Gaussian or categorical. The levels {1.0, 1.2 … 2.0} are introduced for QMIX, and [RLB] says that
  its SAC was changed for discrete actions; but only a density can meet a target entropy of -|A| (of
  levels no entropy is negative), and Alg. 2 has Q(o, a), differentiated by a. Here the policy for a
  server is a Gaussian, squashed to (-1, 1), which the balancer rounds to the nearest level:
  rounding is part of the environment, log pi and Q are of what was drawn, |A| is N. The gradient
  thus reaches the whole actor, which an index drawn from a categorical and fed to Q cuts off.
- Hidden units: 64 in [MPG] Table 9 for the simulation, 128 in [RLB] for real servers. Here 64.
- A batch is of 25 sequences; how long they are is not said. Here `TRAINED` steps, after `BURN_IN`
  steps in which a GRU's memory fills from zero and nothing is learned. (The authors' code crops
  episodes in the middle and begins there with the state of the episode's start.)
- Where the judged action enters a critic with a GRU: after it. The GRU sees what was observed and
  done before, so that a drawn action does not change the memory of steps to come.
- VBF is Def. 2's variance in s^2, not divided by the mean as `agent.rewards` has it. The logarithm
  has that module's floor. l_j is the weighted mean, see `distr_features`: the plain discounted one
  shrinks while a server gets nothing.
- [RLB] Eq. 18 smooths l_j over two steps, with 0.1 of the one before: RLB-SAC alone does so.
- [RLB] has a GRU in its SAC too, [MPG] says that RLB-SAC has none, and compares itself with that.
  What else differs is not told: here RLB-SAC has all the rest of Distr-LB, features among it.
- Not given, and here what is usual for SAC: Adam, tau 0.005, gamma 0.99 (the authors' code), bounds
  of the deviation's logarithm, uniform initialisation. The temperature begins at `TEMPERATURE`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.learn.sac import squash
from agent.rewards import VARIANCE_FLOOR, g, jain
from testbed.papers.distr_features import size

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LEVELS: Float64 = np.array([1.0, 1.2, 1.4, 1.6, 1.8, 2.0])
HIDDEN = 64
LEARNING_RATE = 3e-4
BATCH = 25
"""Sequences; learning begins when the replay has as many episodes."""
REPLAY_EPISODES = 3000
UPDATES_AN_EPISODE = 10
GAMMA = 0.99
TAU = 0.005
TEMPERATURE = 0.02
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
BURN_IN, TRAINED = 8, 16


def vbf(l_s: Float64) -> float:
    """[MPG] Def. 2 in s^2, of l (N,) in s."""
    return -float(np.var(l_s))


def vbf_log_vbf(l_s: Float64) -> float:
    """[MPG] App. E.2.1."""
    return vbf(l_s) - math.log(VARIANCE_FLOOR - vbf(l_s))


REWARDS: dict[str, Callable[[Float64], float]] = {
    "VBF": vbf,
    "VBF+logVBF": vbf_log_vbf,
    "Jain": jain,
    "G": g,
}


def levels(u: Float32) -> Float64:
    """The weights in force (N,) for u (N,) in [-1, 1]: the nearest of the published levels."""
    place = (np.asarray(u, np.float64) + 1.0) * 0.5 * (LEVELS.size - 1)
    weights: Float64 = LEVELS[np.rint(place).astype(np.int64)]
    return weights


class Linear(nn.Module):
    """K layers side by side, one a network: (K, R, inputs) -> (K, R, outputs)."""

    def __init__(self, copies: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        self.weight = uniform(copies, inputs, outputs)
        self.bias = uniform(copies, 1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Networks(nn.Module):
    """K networks of one shape, none of which knows of the others: side by side they are faster.

    T steps of B sequences; judged: further inputs of the layer after the memory.
    """

    def __init__(
        self,
        copies: int,
        inputs: int,
        outputs: int,
        recurrent: bool,
        generator: torch.Generator,
        judged: int = 0,
    ) -> None:
        super().__init__()
        self.copies, self.recurrent = copies, recurrent
        self.first = Linear(copies, inputs, HIDDEN, generator)
        self.second = Linear(copies, HIDDEN, HIDDEN, generator)
        if recurrent:
            # As nn.GRU, its gates in the order update, reset, new.
            self.gates = Linear(copies, HIDDEN, 3 * HIDDEN, generator)
            self.inner = Linear(copies, HIDDEN, 3 * HIDDEN, generator)
        self.third = Linear(copies, HIDDEN + judged, HIDDEN, generator)
        self.fourth = Linear(copies, HIDDEN, outputs, generator)

    def empty(self, sequences: int) -> Tensor:
        """Memory before the first step (K, B, H)."""
        return torch.zeros(self.copies, sequences, HIDDEN)

    def remember(self, x: Tensor, hidden: Tensor) -> Tensor:
        """x (K, T, B, inputs), hidden (K, B, H) -> memory after each step (K, T, B, H)."""
        rows = torch.relu(self.second(torch.relu(self.first(x.flatten(1, 2)))))
        if not self.recurrent:
            return rows.view(*x.shape[:3], HIDDEN)
        outer = self.gates(rows).view(*x.shape[:3], 3 * HIDDEN)
        switches = outer[..., : 2 * HIDDEN].unbind(1)
        news = outer[..., 2 * HIDDEN :].unbind(1)
        after = []
        for switch, new in zip(switches, news, strict=True):
            inner = self.inner(hidden)
            update, reset = torch.sigmoid(switch + inner[..., : 2 * HIDDEN]).chunk(2, -1)
            proposed = torch.tanh(torch.addcmul(new, reset, inner[..., 2 * HIDDEN :]))
            hidden = torch.lerp(proposed, hidden, update)
            after.append(hidden)
        return torch.stack(after, 1)

    def answer(self, memory: Tensor) -> Tensor:
        """memory (K, T, B, H + judged) -> (K, T, B, outputs)."""
        out: Tensor = self.fourth(torch.relu(self.third(memory.flatten(1, 2))))
        return out.view(*memory.shape[:3], -1)


@dataclass(frozen=True)
class Episode:
    """What one balancer saw and did in T steps.

    x (T, inputs): observation and the weights in force before it; u (T, N) f32; reward (T,) f32 of
    what was done at a step, known at the next one: the last is unknown, and 0.
    """

    x: Float32
    u: Float32
    reward: Float32


class Learner:
    """Actors, critics, replays of M balancers. Seeded: the same calls give the same parameters."""

    def __init__(self, balancers: int, servers: int, recurrent: bool, seed: int) -> None:
        self.balancers, self.servers = balancers, servers
        self.generator = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(seed)
        self._burn_in = BURN_IN if recurrent else 0
        inputs = size(servers) + servers
        self.actors = Networks(balancers, inputs, 2 * servers, recurrent, self.generator)
        # The first critic of every balancer, then the second of every balancer.
        critics = (2 * balancers, inputs, 1, recurrent, self.generator, servers)
        self.critics, self.targets = Networks(*critics), Networks(*critics)
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((balancers, 1, 1), math.log(TEMPERATURE)))
        self._optimiser = torch.optim.Adam(
            [*self.actors.parameters(), *self.critics.parameters(), self.log_alpha], LEARNING_RATE
        )
        self._replays: list[deque[Episode]] = [
            deque(maxlen=REPLAY_EPISODES) for _ in range(balancers)
        ]

    def act(
        self, balancer: int, x: Float32, hidden: Tensor, explore: bool
    ) -> tuple[Float32, Tensor]:
        """u (N,) of one balancer for x (inputs,), and its memory (M, 1, H) for the next step."""
        with torch.no_grad():
            # All copies answer, one is asked: cheaper than to take one out of the stack.
            seen = torch.from_numpy(x).expand(self.balancers, 1, 1, -1)
            memory = self.actors.remember(seen, hidden)
            mean, log_std = self._gaussian(memory)
            if explore:
                noise = torch.randn(mean.shape, generator=self.generator)
                mean = mean + log_std.exp() * noise
            u: Float32 = torch.tanh(mean)[balancer, 0, 0].numpy()
            return u, memory[:, 0]

    def learn(self, episodes: list[Episode]) -> None:
        """Store an episode a balancer, and update as often as the papers do."""
        for replay, episode in zip(self._replays, episodes, strict=True):
            replay.append(episode)
        if len(self._replays[0]) >= BATCH:
            for _ in range(UPDATES_AN_EPISODE):
                self.update(*self._sample())

    def update(self, x: Tensor, u: Tensor, reward: Tensor) -> None:
        """One step of all networks: x (M, T + 1, B, inputs), u (M, T, B, N), reward (M, T, B).

        Of a balancer's batch its own networks alone learn: losses are summed over balancers.
        """
        burn_in = self._burn_in
        memory = self.actors.remember(x, self.actors.empty(x.shape[2]))[:, burn_in:]
        drawn, log_pi = self._draw(memory)
        twice = x.repeat(2, 1, 1, 1)
        judging = self.critics.remember(twice, self.critics.empty(x.shape[2]))[:, burn_in:]
        with torch.no_grad():
            later = self.targets.remember(twice, self.targets.empty(x.shape[2]))[:, burn_in + 1 :]
            value = self._least(self.targets, later, drawn[:, 1:])
            value -= self.log_alpha.exp() * log_pi[:, 1:]
            aim = reward[:, burn_in:] + GAMMA * value
        q = self._judge(self.critics, judging[:, :-1], u[:, burn_in:])
        critic_loss = (q - aim.repeat(2, 1, 1)).square().mean((1, 2)).sum()
        least = self._least(self.critics, judging.detach(), drawn)
        actor_loss = (self.log_alpha.detach().exp() * log_pi - least).mean((1, 2)).sum()
        # Of -|A|: raised while there is less entropy than that, lowered while there is more.
        surplus = (log_pi.detach() - self.servers).mean((1, 2), keepdim=True)
        temperature_loss = -(self.log_alpha * surplus).sum()

        self._optimiser.zero_grad()
        critic_loss.backward(inputs=list(self.critics.parameters()))
        actor_loss.backward(inputs=list(self.actors.parameters()))
        temperature_loss.backward()
        self._optimiser.step()
        with torch.no_grad():
            for target, online in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target.lerp_(online, TAU)

    def _gaussian(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """mean, log_std (M, T, B, N)."""
        mean, log_std = self.actors.answer(memory).chunk(2, -1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def _draw(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """u (M, T, B, N) and the logarithm of its joint density (M, T, B)."""
        mean, log_std = self._gaussian(memory)
        u, mean_log_pi = squash(mean, log_std, torch.randn(mean.shape, generator=self.generator))
        return u, self.servers * mean_log_pi

    def _judge(self, critics: Networks, memory: Tensor, u: Tensor) -> Tensor:
        """Q of both critics of every balancer (2 M, T, B)."""
        return critics.answer(torch.cat((memory, u.repeat(2, 1, 1, 1)), -1)).squeeze(-1)

    def _least(self, critics: Networks, memory: Tensor, u: Tensor) -> Tensor:
        """The lesser Q of every balancer (M, T, B)."""
        return torch.minimum(*self._judge(critics, memory, u).chunk(2))

    def _sample(self) -> tuple[Tensor, Tensor, Tensor]:
        """A batch as `update` takes it; every balancer draws from its own replay."""
        steps = self._burn_in + TRAINED
        xs, us, rewards = [], [], []
        for replay in self._replays:
            chosen = [replay[at] for at in self._rng.integers(len(replay), size=BATCH)]
            begins = [int(self._rng.integers(len(one.u) - steps)) for one in chosen]
            cuts = [(one, slice(at, at + steps)) for one, at in zip(chosen, begins, strict=True)]
            xs.append(np.stack([one.x[cut.start : cut.stop + 1] for one, cut in cuts], axis=1))
            us.append(np.stack([one.u[cut] for one, cut in cuts], axis=1))
            rewards.append(np.stack([one.reward[cut] for one, cut in cuts], axis=1))
        x, u, reward = (torch.from_numpy(np.stack(parts)) for parts in (xs, us, rewards))
        return x, u, reward
