"""Averages of the last checkpoints: the same bits whether they are loaded or read in parts."""

import jax.numpy as jnp
import numpy as np
import pytest
from small_state import abstract

from palmscale.checkpoint.average import averaged_in_parts, last_steps, restore_averaged
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import UserError


def params_at(step):
    values = np.random.default_rng(step).standard_normal((5, 3), dtype=np.float32)
    return {"table": jnp.asarray(values), "norm": jnp.full(3, 0.1 * step, jnp.float32)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("average")
    keep = KeepPolicy(latest=9)
    with (
        Lease(workdir) as lease,
        CheckpointStore(workdir / "checkpoints", lease=lease, keep=keep) as store,
    ):
        for step in (1, 2, 3, 4):
            params = params_at(step)
            if step == 1:
                params |= {"other": jnp.ones(1)}
            store.save(step, params=params, optimizer_state={}, cursor={}, meta={})
    return CheckpointReader(workdir / "checkpoints")


def test_the_average_is_that_of_the_last_steps_either_way(reader):
    loaded = restore_averaged(reader, None, 3, abstract_params=abstract(params_at(4)))
    assert loaded.step == 4
    read = averaged_in_parts(reader, last_steps(reader.verified_steps(), 4, 3))
    for name, leaf in loaded.params.items():
        exact = np.mean([np.asarray(params_at(n)[name], np.float64) for n in (2, 3, 4)], axis=0)
        np.testing.assert_allclose(leaf, exact, rtol=1e-6, atol=1e-7)
        assert np.array_equal(leaf, read[name].read())
        assert np.array_equal(leaf[1:2], read[name].read(slice(1, 2)))


def test_one_checkpoint_is_itself(reader):
    loaded = restore_averaged(reader, 3, 1, abstract_params=abstract(params_at(3)))
    assert np.array_equal(loaded.params["table"], params_at(3)["table"])
    read = averaged_in_parts(reader, last_steps([1, 2, 3], 3, 1))
    assert np.array_equal(read["table"].read(), params_at(3)["table"])


def test_too_many_or_unlike_checkpoints_are_refused(reader):
    with pytest.raises(UserError, match="average=5 is out of range: 4 verified .* up to step 4"):
        last_steps([1, 2, 3, 4], 4, 5)
    with pytest.raises(UserError, match="steps 1 and 4 cannot be averaged: extra .*: other"):
        averaged_in_parts(reader, [4, 3, 2, 1])


def test_quantized_parameters_are_not_averaged(reader):
    with pytest.raises(UserError, match="average=2: quantized weights are not averaged"):
        restore_averaged(
            reader,
            None,
            2,
            abstract_params=abstract(params_at(4)),
            convert=lambda name, leaf: leaf.astype(jnp.int8),
        )
