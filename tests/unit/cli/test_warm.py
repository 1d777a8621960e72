from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.checkpoint.together import ALONE
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.cli.warm import given_parameters
from palmscale.cluster.join import Deadlines


def setting(warm):
    shapes = {"a": jax.ShapeDtypeStruct((2,), jnp.float32), "b": jax.ShapeDtypeStruct((), "int32")}
    return SimpleNamespace(
        run=SimpleNamespace(warm_start=warm, deadlines=Deadlines()),
        plan=SimpleNamespace(abstract=SimpleNamespace(params=shapes)),
    )


@pytest.fixture
def workdir(tmp_path):
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        store.save(4, params={"a": jnp.ones(2)}, optimizer_state={}, cursor={}, meta={})
    return tmp_path


def test_a_run_without_a_warm_start_is_given_nothing():
    assert given_parameters(setting(None), ALONE) == ({}, None)


def test_parameters_are_given_and_the_record_tells_from_where(workdir, caplog):
    warm = WarmStart(workdir=str(workdir), fresh=("b",))
    with caplog.at_level("INFO"):
        given, record = given_parameters(setting(warm), ALONE)
    assert given.keys() == {"a"}
    np.testing.assert_array_equal(given["a"], np.ones(2))
    assert record["step"] == 4 and record["workdir"] == str(workdir) and record["fresh"] == ["b"]
    assert f"1 arrays of parameters from step 4 of {workdir}; 1 begin anew." in caplog.text
