import json
import os
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save as to_bytes
from test_sac import SMALL, filled

from agent.act.network import checked
from agent.learn import checkpoint
from agent.learn.checkpoint import CheckpointError, Saved, actor_of, load, save
from agent.learn.state import capture, restore


def same(one, other):
    a, b = capture(one), capture(other)
    assert a.meta == b.meta
    assert a.arrays.keys() == b.arrays.keys()
    return all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


@pytest.mark.parametrize("updates", [0, 4])
def test_a_resumed_learner_equals_one_that_never_stopped(tmp_path, updates):
    path = tmp_path / "learner.safetensors"
    one = filled()
    one.update(updates)
    save(capture(one), path)
    other = filled(replace(SMALL, seed=SMALL.seed))
    restore(other, load(path))
    assert same(one, other)
    one.update(4)
    other.update(4)
    assert same(one, other)


def test_a_checkpoint_serves_any_number_of_backends(tmp_path):
    path = tmp_path / "c"
    one = filled(counts=(3,) * 16)
    one.update(2)
    save(capture(one), path)
    other = filled(counts=(8,) * 16)
    restore(other, load(path))
    assert other.update(2) is not None


def test_a_frozen_agent_finds_the_actor_in_it(tmp_path):
    one = filled()
    save(capture(one), tmp_path / "c")
    for name, array in actor_of(load(tmp_path / "c")).items():
        assert np.array_equal(array, one.actor_arrays()[name])
    assert checked(actor_of(load(tmp_path / "c")))


def test_a_crash_while_saving_leaves_the_old_one_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "c"
    one = filled()
    save(capture(one), path)
    before = path.read_bytes()
    one.update(1)

    def crash(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        save(capture(one), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def wrong(saved, **header):
    meta = {"version": 1, "features": list(checkpoint.FEATURES), "arrays": sorted(saved.arrays)}
    meta["service_features"] = list(checkpoint.SERVICE_FEATURES)
    return to_bytes(saved.arrays, {checkpoint.JSON_KEY: json.dumps({**meta, **header})})


def test_a_wrong_file_says_what_is_wrong(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(path)
    saved = capture(filled())
    save(saved, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="truncated"):
        load(path)
    path.write_bytes(wrong(saved, version=99))
    with pytest.raises(CheckpointError, match="version 99"):
        load(path)
    path.write_bytes(wrong(saved, features=["other"]))
    with pytest.raises(CheckpointError, match="features are not those"):
        load(path)
    path.write_bytes(wrong(saved, arrays=[*saved.arrays, "zebra"]))
    with pytest.raises(CheckpointError, match="zebra is missing"):
        load(path)
    path.write_bytes(to_bytes(saved.arrays))
    with pytest.raises(CheckpointError, match="not a checkpoint of this agent"):
        load(path)


def test_nan_is_neither_saved_nor_loaded(tmp_path):
    saved = capture(filled())
    bad = Saved({**saved.arrays, "log_alpha": np.array(np.nan, np.float32)}, saved.meta)
    with pytest.raises(CheckpointError, match="log_alpha is not finite"):
        save(bad, tmp_path / "c")
    (tmp_path / "c").write_bytes(wrong(bad))
    with pytest.raises(CheckpointError, match="log_alpha is not finite"):
        load(tmp_path / "c")


def test_arrays_that_do_not_fit_are_named_and_nothing_is_changed():
    learner = filled()
    saved, before = capture(learner), capture(learner)
    name = "targets.1.judge1.weight"
    for arrays in (
        {k: v for k, v in saved.arrays.items() if k != name},
        {**saved.arrays, name: np.zeros((2, 2), np.float32)},
    ):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            restore(learner, Saved(arrays, saved.meta))
    assert all(np.array_equal(before.arrays[k], v) for k, v in capture(learner).arrays.items())
