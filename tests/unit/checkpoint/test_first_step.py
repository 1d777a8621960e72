"""The checkpoint of step 0 from tensors in parts is one like any other."""

import eight_devices
import jax
import numpy as np
import pytest

from palmscale.checkpoint import array_parts, first_step
from palmscale.checkpoint.digest import read_manifest
from palmscale.checkpoint.first_step import write_first_step
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import StepFolders
from palmscale.errors import CorruptionError, NotSaved, UserError
from palmscale.storage.tensor import Tensor
from palmscale.trees import named_leaves, nested

ARRAYS = {
    "embedding": np.random.default_rng(0).standard_normal((48, 16), dtype=np.float32),
    "layers/norm": np.zeros((2, 16), np.float32),
    "layers/query": np.random.default_rng(1).standard_normal((2, 16, 4, 8), dtype=np.float32),
}


def tensor(array):
    return Tensor(array.shape, array.dtype, lambda part: array[part])


def written(workdir, **tensors):
    with Lease(workdir) as lease:
        write_first_step(
            workdir / "checkpoints",
            {name: tensor(array) for name, array in ARRAYS.items()} | tensors,
            meta={"a": 1},
            lease=lease,
        )
    return CheckpointReader(workdir / "checkpoints")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with step 0 in small chunks. Not to be written to."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_parts, "_CHUNK_BYTES", 1 << 9)
        written(folder)
    return folder


def abstract(sharding=None):
    return nested(
        {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
            for name, array in ARRAYS.items()
        }
    )


def test_it_is_verified_and_restores_bit_for_bit(workdir):
    assert StepFolders(workdir / "checkpoints").damages(0) == []
    snapshot = CheckpointReader(workdir / "checkpoints").restore(abstract_params=abstract())
    assert (snapshot.step, snapshot.cursor, snapshot.meta) == (0, {}, {"a": 1})
    for name, leaf in named_leaves(snapshot.params).items():
        assert np.array_equal(leaf, ARRAYS[name])


def on_a_mesh(workdir):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    sharding = jax.NamedSharding(mesh, jax.P("data", "model"))
    names = {name: sharding for name in ("embedding",)}
    names["layers/query"] = jax.NamedSharding(mesh, jax.P(None, "data", "model"))
    names["layers/norm"] = jax.NamedSharding(mesh, jax.P())
    wanted = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=names[name])
        for name, array in ARRAYS.items()
    }
    snapshot = CheckpointReader(f"{workdir}/checkpoints").restore(abstract_params=nested(wanted))
    leaves = named_leaves(snapshot.params)
    return [
        all(np.array_equal(leaf, ARRAYS[name]) for name, leaf in leaves.items()),
        leaves["layers/query"].addressable_shards[0].data.shape,
    ]


def test_it_restores_onto_a_mesh(workdir):
    assert eight_devices.facts_on_eight_devices(on_a_mesh, str(workdir)) == [True, [2, 4, 2, 8]]


def test_its_parts_are_read_after_all_files_are_verified(workdir, tmp_path):
    reader = CheckpointReader(workdir / "checkpoints")
    found = reader.params_in_parts(0)
    assert np.array_equal(found["layers/query"].read(slice(1, 2)), ARRAYS["layers/query"][1:])
    reader = written(tmp_path)
    file = next((tmp_path / "checkpoints/0/params/embedding/c").rglob("*/0"))
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    with pytest.raises(CorruptionError, match="is damaged: its SHA-256"):
        reader.params_in_parts(0)


def test_a_source_that_fails_leaves_no_step(tmp_path):
    def fails(part):
        raise UserError("the source is damaged")

    with pytest.raises(UserError, match="the source is damaged"):
        written(tmp_path, broken=Tensor((3,), np.dtype(np.float32), fails))
    assert not (tmp_path / "checkpoints" / "0").exists()


def test_storage_that_fails_is_named_and_leaves_no_step(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_step, "write_arrays", full)
    with pytest.raises(NotSaved, match=r"could not be written to .*/0: .*No space left"):
        written(tmp_path)
    assert not (tmp_path / "checkpoints" / "0").exists()


def test_a_step_that_a_kill_left_unfinished_is_replaced(tmp_path):
    (tmp_path / "checkpoints/0/params/embedding/c").mkdir(parents=True)
    (tmp_path / "checkpoints/0/params/embedding/c/9").write_bytes(b"left over")
    reader = written(tmp_path)
    assert reader.verified_steps() == [0]
    assert "params/embedding/c/9" not in read_manifest(reader.directory / "0")["files"]
