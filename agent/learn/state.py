"""A learner as plain arrays and JSON, and back.

Lives here: which parts make up a learner's state (all but the replay): networks, targets,
temperature, optimisers, generators, running reward mean, counters. Never here: files.
Upstream: `agent.learn.sac`. Downstream: `agent.learn.checkpoint`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agent.learn.checkpoint import CheckpointError, Saved
from agent.learn.sac import Learner

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def capture(learner: Learner) -> Saved:
    """Copies of everything but the replay; a learner restored from it goes on bit for bit."""
    arrays = {name: _copy(tensor) for name, tensor in _tensors(learner).items()}
    for name, parameter, state in _optimiser_states(learner):
        for moment in MOMENTS:
            # Adam makes its state at the first step; before that it is all zero.
            empty = torch.zeros(()) if moment == "step" else torch.zeros_like(parameter)
            arrays[f"{name}.{moment}"] = _copy(state.get(moment, empty))
    arrays["generator"] = learner.generator.get_state().numpy().copy()
    meta = {
        "settings": asdict(learner.settings),
        "updates": learner.updates,
        "reward_mean": learner.reward_mean,
        "numpy_generator": learner.rng.bit_generator.state,
    }
    return Saved(arrays, meta)


def restore(learner: Learner, saved: Saved) -> None:
    """Put `saved` into a learner; its settings stay its own. Raises CheckpointError.

    All is checked before anything is changed.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in _tensors(learner).items()}
    for name, parameter, _ in _optimiser_states(learner):
        for moment in MOMENTS:
            wanted[f"{name}.{moment}"] = () if moment == "step" else tuple(parameter.shape)
    wanted["generator"] = tuple(learner.generator.get_state().shape)
    for name, shape in wanted.items():
        if name not in saved.arrays:
            raise CheckpointError(f"checkpoint: {name} is missing")
        if saved.arrays[name].shape != shape:
            raise CheckpointError(
                f"checkpoint: {name} has shape {saved.arrays[name].shape}, expected {shape}"
            )
    try:
        updates = int(saved.meta["updates"])
        reward_mean = float(saved.meta["reward_mean"])
        learner.rng.bit_generator.state = saved.meta["numpy_generator"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint: bad or missing entry {error}") from error
    with torch.no_grad():
        for name, tensor in _tensors(learner).items():
            tensor.copy_(torch.from_numpy(saved.arrays[name]))
    for name, parameter, state in _optimiser_states(learner):
        for moment in MOMENTS:
            state[moment] = torch.from_numpy(saved.arrays[f"{name}.{moment}"].copy())
            if moment != "step":
                state[moment] = state[moment].to(parameter.dtype)
    learner.generator.set_state(torch.from_numpy(saved.arrays["generator"].copy()))
    learner.updates, learner.reward_mean = updates, reward_mean


def _tensors(learner: Learner) -> dict[str, Tensor]:
    modules: dict[str, nn.Module] = {
        "actor": learner.actor,
        "critics": learner.critics,
        "targets": learner.targets,
    }
    tensors: dict[str, Tensor] = {
        f"{module}.{name}": tensor
        for module, owner in modules.items()
        for name, tensor in owner.state_dict().items()
    }
    tensors["log_alpha"] = learner.log_alpha.detach()
    return tensors


def _optimiser_states(learner: Learner) -> list[tuple[str, Tensor, dict[str, Any]]]:
    """(name, parameter, its state) of every optimiser, in the order of parameters."""
    return [
        (f"optimiser.{name}.{index}", parameter, optimiser.state[parameter])
        for name, optimiser in learner.optimisers.items()
        for index, parameter in enumerate(optimiser.param_groups[0]["params"])
    ]


def _copy(tensor: Tensor) -> NDArray[np.generic]:
    return np.array(tensor.detach().numpy(), copy=True)
