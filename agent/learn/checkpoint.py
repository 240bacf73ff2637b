"""Checkpoints as files: one safetensors file whose header carries the JSON beside the tensors.

Lives here: reading, writing, checking; numpy only, so that a frozen agent loads one without torch.
Never here: what the arrays mean (`agent.learn.state`), pickle.
Upstream and downstream: `agent.learn.worker`, `agent.learn.state`, the runner of a frozen agent.

A file is written under another name in the same directory, synced and renamed: a crash leaves the
old checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from agent.act.network import ParameterError, checked
from agent.observe import FEATURES, SERVICE_FEATURES

Array = NDArray[Any]

VERSION = 1
JSON_KEY = "lbd.agent"


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says which, and what is wrong with it."""


@dataclass(frozen=True)
class Saved:
    """arrays by name, and `meta`: plain JSON (settings, counters, generators)."""

    arrays: dict[str, Array]
    meta: dict[str, Any]


def save(saved: Saved, path: Path) -> None:
    """Write atomically. Raises CheckpointError on values that no one could load again."""
    for name, array in saved.arrays.items():
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise CheckpointError(f"{path}: {name} is not finite, not saved")
    header = {
        "version": VERSION,
        "features": list(FEATURES),
        "service_features": list(SERVICE_FEATURES),
        "arrays": sorted(saved.arrays),
        **saved.meta,
    }
    data = to_bytes(saved.arrays, metadata={JSON_KEY: json.dumps(header)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load(path: Path) -> Saved:
    """Read and check. Raises CheckpointError: missing, truncated, other version, NaN."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(JSON_KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({error})") from error
    if text is None:
        raise CheckpointError(f"{path}: not a checkpoint of this agent (no {JSON_KEY} header)")
    try:
        meta = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: header is not JSON ({error})") from error
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        found = meta.get("version") if isinstance(meta, dict) else meta
        raise CheckpointError(f"{path}: version {found!r}, this agent reads {VERSION}")
    for key, expected in (("features", FEATURES), ("service_features", SERVICE_FEATURES)):
        if meta.get(key) != list(expected):
            raise CheckpointError(f"{path}: its {key} are not those of this agent")
    missing = sorted(set(meta.get("arrays", [])) - set(arrays))
    if missing:
        raise CheckpointError(f"{path}: {missing[0]} is missing")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise CheckpointError(f"{path}: {name} is not finite")
    return Saved(arrays, meta)


def actor_of(saved: Saved, source: str = "checkpoint") -> dict[str, NDArray[np.float32]]:
    """The actor's arrays for `agent.act.network`. Raises CheckpointError if they do not fit."""
    prefix = "actor."
    arrays: Mapping[str, NDArray[np.float32]] = {
        name.removeprefix(prefix): array
        for name, array in saved.arrays.items()
        if name.startswith(prefix)
    }
    try:
        return checked(arrays)
    except ParameterError as error:
        raise CheckpointError(f"{source}: actor: {error}") from error
