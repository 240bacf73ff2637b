"""The frozen settings of the agent, validated when they are made.

Lives here: names, types, defaults and bounds. Never here: files, environment, argv.
Upstream: `config` or a test. Downstream: every other module of `agent`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Mode = Literal["learn", "frozen", "shadow"]
Base = Literal["latency", "none"]

HIDDEN = 64

ACTIONS = ("factor", "offset", "memory", "busy")
"""What a policy decides of each backend, each in (-1, 1): log g_j over its bound; log b over its
bound, the place among the memories and that of kappa, whose means over the backends count."""


class SettingsError(ValueError):
    """A setting is outside its bounds; the message names it."""


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise SettingsError(message)


@dataclass(frozen=True)
class PolicySettings:
    """How the network's output becomes weights.

    max_ratio: bound of the largest over the smallest weight a.
    factor_ratio: the same of g over base 'latency'; over base 'none' it is max_ratio.
    base: 'latency' makes a_j = g_j (1 + kappa n_j) / L_j, 'none' a_j = g_j.
    offset_ratio: b, which dispatch adds to q, is within 1 / offset_ratio and offset_ratio; 1 makes
    it 1, the rule without one.
    busy_most: the largest kappa.
    recurrent: False holds the hidden state at zero: a policy without memory.
    noise_correlation: of exploration from one step to the next; the noise stays N(0, 1) at every
    step, but a push that lasts a second or two moves the queues, white noise averages out.
    """

    max_ratio: float = 16.0
    factor_ratio: float = 4.0
    offset_ratio: float = 8.0
    busy_most: float = 2.0
    base: Base = "latency"
    recurrent: bool = True
    noise_correlation: float = 0.85

    def __post_init__(self) -> None:
        _require(math.isfinite(self.max_ratio) and self.max_ratio > 1.0, "max_ratio must be > 1")
        _require(
            math.isfinite(self.factor_ratio) and self.factor_ratio > 1.0, "factor_ratio must be > 1"
        )
        _require(
            math.isfinite(self.offset_ratio) and self.offset_ratio >= 1.0,
            "offset_ratio must be >= 1",
        )
        _require(math.isfinite(self.busy_most) and self.busy_most >= 0.0, "busy_most must be >= 0")
        _require(self.base in ("latency", "none"), f"unknown base {self.base!r}")
        _require(0.0 <= self.noise_correlation < 1.0, "noise_correlation must be in [0, 1)")


@dataclass(frozen=True)
class LearnSettings:
    """The SAC recipe.

    train_steps and burn_in_steps make up a chunk. updates_per_step: gradient updates for each step
    received. target_entropy is per backend: -|A| of the papers, with |A| = 1 a backend.
    replay_steps and max_backends bound the replay; both limits have counters.
    recurrent: False starts every network's memory from zero at every step, as a policy's that is
    not. actor_after_updates: until then the actor stays as it is, and only the critics learn of it.
    """

    seed: int = 0
    train_steps: int = 16
    burn_in_steps: int = 4
    batch_chunks: int = 16
    updates_per_step: float = 3.0
    gamma: float = 0.99
    tau: float = 0.005
    actor_lr: float = 3e-4
    critic_lr: float = 1e-3
    temperature_lr: float = 1e-3
    initial_temperature: float = 0.02
    target_entropy: float = -1.0
    reward_scale: float = 0.3
    neutral_pull: float = 0.3
    replay_steps: int = 4096
    max_backends: int = 64
    min_steps: int = 40
    recurrent: bool = True
    actor_after_updates: int = 0

    def __post_init__(self) -> None:
        for name in ("train_steps", "batch_chunks", "replay_steps", "max_backends", "min_steps"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        _require(self.burn_in_steps >= 0, "burn_in_steps must not be negative")
        _require(0.0 <= self.gamma < 1.0, "gamma must be in [0, 1)")
        _require(0.0 < self.tau <= 1.0, "tau must be in (0, 1]")
        for name in ("actor_lr", "critic_lr", "temperature_lr", "initial_temperature"):
            _require(getattr(self, name) > 0.0, f"{name} must be positive")
        _require(self.updates_per_step >= 0.0, "updates_per_step must not be negative")
        _require(self.actor_after_updates >= 0, "actor_after_updates must not be negative")
        _require(
            self.replay_steps > self.chunk_steps, "replay_steps must exceed burn_in + train steps"
        )

    @property
    def chunk_steps(self) -> int:
        """Actions in a chunk; it holds one observation more."""
        return self.burn_in_steps + self.train_steps


def gentle(settings: LearnSettings) -> LearnSettings:
    """The same for parameters that are good already: slow, the critics first, since a fresh one's
    advice would undo what the actor knows, and without the pull to neutral, which would, too."""
    return replace(
        settings, actor_lr=3e-5, critic_lr=3e-4, neutral_pull=0.0, actor_after_updates=500
    )


@dataclass(frozen=True)
class ProcessSettings:
    """How the learner's process runs; times in seconds.

    checkpoint: where to save, and to resume from if it exists; None neither saves nor resumes.
    publish_s: least time between two parameter sets. pending_bytes bounds each direction.
    """

    checkpoint: Path | None = None
    checkpoint_every_s: float = 60.0
    publish_s: float = 0.25
    niceness: int = 10
    restart_first_s: float = 2.0
    restart_most_s: float = 60.0
    pending_bytes: int = 1 << 22


@dataclass(frozen=True)
class AgentSettings:
    """One agent: mode, reward by name (`agent.rewards.REWARDS`), seed of exploration, policy."""

    mode: Mode = "learn"
    reward: str = "VBF+logVBF"
    seed: int = 0
    policy: PolicySettings = field(default_factory=PolicySettings)

    def __post_init__(self) -> None:
        _require(self.mode in ("learn", "frozen", "shadow"), f"unknown mode {self.mode!r}")
