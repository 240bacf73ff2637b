"""Soft actor-critic over sets of backends, with memory.

Lives here: the learner's state and one method a loss. Never here: replay, processes, files.
Upstream: `agent.learn.replay` (batches). Downstream: `agent.learn.checkpoint` (state), `process`.

[MPG] Sec. 3.4: J_Q = (Q(o, a) - r - gamma V'(o'))^2, V' = min Q'(o', a') - alpha log pi(a' | o'),
J_pi = alpha log pi - min Q, with twin critics, soft targets and an automatic temperature. Entropies
are per backend and averaged over them, as Q is, so the target does not depend on N.

The actor's memory starts from the state stored when it acted; the critics', of which the acting
side has none, from zeros. Both then burn in without gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.act.network import fresh_parameters
from agent.learn.networks import Actor, Critic, Memory, masked_mean
from agent.learn.replay import Batch, Replay
from agent.settings import HIDDEN, LearnSettings


@dataclass(frozen=True)
class Losses:
    """Means over a batch of one update, for reports. entropy is per backend, in nats."""

    critic: float
    actor: float
    temperature: float
    entropy: float
    q: float


@dataclass(frozen=True)
class Chunk:
    """A Batch as tensors, after burn-in. T actions, T + 1 observations.

    actor, critics, targets: GRU outputs (T+1, B, N, H); the targets' without gradient.
    """

    mask: Tensor
    u: Tensor
    reward: Tensor
    actor: Tensor
    critics: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]


class Learner:
    """All of the learner's state but the replay. One seed, one sequence of batches, one result."""

    def __init__(self, settings: LearnSettings, replay: Replay) -> None:
        self.settings = settings
        self.replay = replay
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.rng = np.random.default_rng(settings.seed)
        self.actor = Actor()
        self.actor.load_arrays(fresh_parameters(settings.seed))
        self.critics = nn.ModuleList([self._fresh_critic(), self._fresh_critic()])
        self.targets = nn.ModuleList([Critic(), Critic()])
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(settings.initial_temperature)))
        self.optimisers = {
            "actor": torch.optim.Adam(self.actor.parameters(), settings.actor_lr),
            "critics": torch.optim.Adam(self.critics.parameters(), settings.critic_lr),
            "temperature": torch.optim.Adam([self.log_alpha], settings.temperature_lr),
        }
        self.reward_mean = 0.0
        self.updates = 0

    def update(self, count: int, replay: Replay | None = None) -> Losses | None:
        """`count` gradient updates; None if the replay holds too little, else the last.

        replay: of one of several balancers that share the learner; its own by default.
        """
        replay = self.replay if replay is None else replay
        losses: Losses | None = None
        for _ in range(count):
            batch = None
            if len(replay) >= self.settings.min_steps:
                batch = replay.sample(
                    self.settings.batch_chunks, self.settings.chunk_steps, self.rng
                )
            if batch is None:
                return losses
            losses = self.update_on(batch)
        return losses

    def update_on(self, batch: Batch) -> Losses:
        """One update of critics, actor, temperature and targets."""
        self._track_reward(batch)
        chunk = self.prepare(batch)
        mean, log_std = self.actor.decide(chunk.actor)
        noise = torch.randn(mean.shape, generator=self.generator)
        u, log_pi = squash(mean, log_std, noise)  # (T+1, B, N, A), (T+1, B, N)

        critic_loss = self.critic_loss(chunk, u, log_pi)
        self._descend("critics", critic_loss)
        actor_loss, q = self.actor_loss(chunk, mean, u, log_pi)
        if self.updates >= self.settings.actor_after_updates:
            self._descend("actor", actor_loss)
            self._descend("temperature", self.temperature_loss(chunk, log_pi))
        self._follow()
        self.updates += 1
        return Losses(
            critic_loss.item(),
            actor_loss.item(),
            self.log_alpha.exp().item(),
            -_mean(log_pi.detach(), chunk.mask).item(),
            q.item(),
        )

    def prepare(self, batch: Batch) -> Chunk:
        """Tensors of a batch, with every network's memory run over it."""
        features, service = torch.from_numpy(batch.features), torch.from_numpy(batch.service)
        mask = torch.from_numpy(batch.mask)
        stored = torch.from_numpy(batch.hidden)
        zeros = torch.zeros(*mask.shape, HIDDEN)
        burn = self.settings.burn_in_steps

        def run(network: Memory, hidden: Tensor) -> Tensor:
            if not self.settings.recurrent:
                return network.at_once(features[burn:], service[burn:], mask)
            if burn:
                with torch.no_grad():
                    _, hidden = network.remember(features[:burn], service[:burn], mask, hidden)
            out, _ = network.remember(features[burn:], service[burn:], mask, hidden)
            return out

        with torch.no_grad():
            targets = _pair(run(critic, zeros) for critic in self._target_critics())
        return Chunk(
            mask=mask,
            u=torch.from_numpy(batch.u[burn:]),
            reward=torch.from_numpy(batch.reward[burn:]),
            actor=run(self.actor, stored),
            critics=_pair(run(critic, zeros) for critic in self._online_critics()),
            targets=targets,
        )

    def critic_loss(self, chunk: Chunk, u: Tensor, log_pi: Tensor) -> Tensor:
        """Soft Bellman error of both critics, Huber. u (T+1, B, N, A), log_pi (T+1, B, N).

        Head by head: each backend's head answers for its share of the reward, and the mean over
        heads, Q, for the whole. Rewards are centred on their running mean: in a task without end
        that shifts Q by a constant and saves the critic from learning a huge one first.
        """
        with torch.no_grad():
            q1, q2 = (
                critic.heads(memory[1:], u[1:], chunk.mask)
                for critic, memory in zip(self._target_critics(), chunk.targets, strict=True)
            )
            value = torch.minimum(q1, q2) - self.log_alpha.exp() * log_pi[1:]  # (T, B, N)
            reward = (chunk.reward - self.reward_mean) * self.settings.reward_scale
            aim = reward + self.settings.gamma * value
        first, second = (
            critic.heads(memory[:-1], chunk.u, chunk.mask) - aim
            for critic, memory in zip(self._online_critics(), chunk.critics, strict=True)
        )
        return _mean(_huber(first), chunk.mask) + _mean(_huber(second), chunk.mask)

    def actor_loss(
        self, chunk: Chunk, mean: Tensor, u: Tensor, log_pi: Tensor
    ) -> tuple[Tensor, Tensor]:
        """alpha log pi - min Q, reparametrised: the gradient runs through Q into u. And mean Q.

        The pull on the mean towards 0 (neutral) settles what Q leaves open, a common shift of all
        u, and keeps the tanh out of saturation, from which no gradient leads back.
        """
        q1, q2 = (
            critic.heads(memory.detach(), u, chunk.mask)
            for critic, memory in zip(self._online_critics(), chunk.critics, strict=True)
        )
        q = torch.minimum(q1, q2)
        pull = self.settings.neutral_pull * mean.square().mean(-1)
        loss = _mean(self.log_alpha.detach().exp() * log_pi - q + pull, chunk.mask)
        return loss, _mean(q.detach(), chunk.mask)

    def temperature_loss(self, chunk: Chunk, log_pi: Tensor) -> Tensor:
        """-log alpha (log pi + target): raises alpha while the entropy is below its target."""
        gap = _mean(log_pi.detach(), chunk.mask) + self.settings.target_entropy
        return -self.log_alpha * gap

    def actor_arrays(self) -> dict[str, NDArray[np.float32]]:
        """What `agent.act.network.ActorNetwork` consumes."""
        return self.actor.arrays()

    def load_actor(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Start from another actor. Raises ParameterError if it does not fit."""
        self.actor.load_arrays(arrays)

    def _fresh_critic(self) -> Critic:
        critic = Critic()
        with torch.no_grad():
            for parameter in critic.parameters():
                # By our own generator: the global one belongs to whoever else uses torch.
                bound = 1.0 / math.sqrt(parameter.shape[-1])
                parameter.uniform_(-bound, bound, generator=self.generator)
        return critic

    def _online_critics(self) -> Iterator[Critic]:
        return (critic for critic in self.critics if isinstance(critic, Critic))

    def _target_critics(self) -> Iterator[Critic]:
        return (critic for critic in self.targets if isinstance(critic, Critic))

    def _track_reward(self, batch: Batch) -> None:
        real = np.broadcast_to(batch.mask, batch.reward.shape)
        mean = float((batch.reward * real).sum(dtype=np.float64) / real.sum(dtype=np.float64))
        rate = max(0.005, 1.0 / (self.updates + 1))
        self.reward_mean += rate * (mean - self.reward_mean)

    def _descend(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        # Gradients of one loss only: the actor's also ran through the critics' heads.
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 10.0)
        optimiser.step()

    def _follow(self) -> None:
        """Soft targets: target += tau (online - target)."""
        with torch.no_grad():
            for target, online in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target.lerp_(online, self.settings.tau)


def squash(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """u = tanh(mean + std noise) (…, A), and log pi(u) (…,), a mean over a backend's actions."""
    x = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    # log(1 - tanh(x)^2) without cancellation for large |x|.
    log_slope = 2.0 * (math.log(2.0) - x - nn.functional.softplus(-2.0 * x))
    return torch.tanh(x), (log_normal - log_slope).mean(-1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over steps, chunks and real backends. values (T, B, N), mask (B, N)."""
    return masked_mean(values, mask).mean()


def _huber(error: Tensor) -> Tensor:
    return nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")


def _pair(items: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    first, second = items
    return first, second
