import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest
from small_state import (
    abstract,
    assert_trees_equal,
    flip_bit,
    params_at,
    restore,
    save,
    truncate,
)

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import CorruptionError, UserError
from palmscale.trees import named_leaves


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A workdir with the verified steps 10 and 20, to be copied."""
    workdir = tmp_path_factory.mktemp("two_steps")
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as opened:
        save(opened, 10)
        save(opened, 20)
    return workdir / "checkpoints"


def test_parameters_restore_without_the_optimizer(two_steps):
    snapshot = restore(CheckpointReader(two_steps), abstract_optimizer_state=None)
    assert snapshot.optimizer_state is None
    assert_trees_equal(snapshot.params, params_at(20))


def test_parameters_are_converted_one_after_another(two_steps):
    alive, names = [], []

    def convert(name, leaf):
        alive.append(sum(array.nbytes for array in jax.live_arrays()) - before)
        names.append(name)
        return leaf.astype(jnp.int8)

    before = sum(array.nbytes for array in jax.live_arrays())
    params = restore(
        CheckpointReader(two_steps), abstract_optimizer_state=None, convert=convert
    ).params
    whole = params_at(20)
    assert names == list(named_leaves(whole))
    assert_trees_equal(params, jax.tree.map(lambda leaf: leaf.astype(jnp.int8), whole))
    assert max(alive) <= sum(x.nbytes for x in jax.tree.leaves(params)) + max(
        x.nbytes for x in jax.tree.leaves(whole)
    )


def test_nothing_saved_restores_to_none(tmp_path):
    reader = CheckpointReader(tmp_path / "nowhere")
    assert restore(reader) is None
    assert reader.read_meta() is None
    assert reader.steps() == []
    assert not (tmp_path / "nowhere").exists()


def test_restores_the_step_asked_for_or_the_best(two_steps):
    assert restore(CheckpointReader(two_steps), 10).step == 10
    assert restore(CheckpointReader(two_steps), "best").step == 20
    with pytest.raises(UserError, match="verified steps: 10, 20"):
        restore(CheckpointReader(two_steps), 15)
    with pytest.raises(UserError, match="no checkpoint in .* has accuracy"):
        restore(CheckpointReader(two_steps, keep=KeepPolicy(best_metric="accuracy")), "best")


def files_of(step):
    return sorted(path.relative_to(step).as_posix() for path in step.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", [flip_bit, truncate, pathlib.Path.unlink])
def test_damage_in_any_file_is_named_and_the_previous_step_is_used(
    damage, two_steps, tmp_path, caplog
):
    copy = tmp_path / "checkpoints"
    for name in files_of(two_steps / "20"):
        path = copy / "20" / name
        if path.exists() or not copy.exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(two_steps, copy)
        if path.stat().st_size == 0 and damage is not pathlib.Path.unlink:
            continue
        damage(path)
        caplog.clear()
        with caplog.at_level("INFO"):
            assert restore(CheckpointReader(copy), abstract_optimizer_state=None).step == 10
        if name == "VERIFIED" and damage is pathlib.Path.unlink:
            assert "step 20 was never finished" in caplog.text
            continue
        assert name.rpartition("/")[2] in caplog.text
        with pytest.raises(CorruptionError):
            restore(CheckpointReader(copy), 20)
        assert CheckpointReader(copy).read_meta()["step"] in (10, 20)


def test_only_an_unfinished_step_means_a_fresh_start(two_steps, tmp_path):
    shutil.copytree(two_steps / "10", tmp_path / "10")
    (tmp_path / "10/VERIFIED").unlink()
    (tmp_path / "10/MANIFEST.json").unlink()
    assert restore(CheckpointReader(tmp_path)) is None


def test_without_any_marker_nothing_is_chosen_silently(two_steps, tmp_path):
    copy = shutil.copytree(two_steps, tmp_path / "copy")
    for step in "10", "20":
        (copy / step / "VERIFIED").unlink()
    reader = CheckpointReader(copy)
    with pytest.raises(UserError, match=r"no VERIFIED \(10, 20\); resume the run"):
        restore(reader)
    with pytest.raises(UserError, match=r"no VERIFIED \(10, 20\)"):
        reader.read_meta()


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("25", "it is a copy of step 20, by its MANIFEST.json"),
        ("0020", "the folder of step 20 is named 20"),
    ],
)
def test_a_folder_that_is_not_the_step_it_is_named_after_is_passed_over_by_name(
    folder, why, two_steps, tmp_path, caplog
):
    copy = shutil.copytree(two_steps, tmp_path / "copy")
    (copy / "20").rename(copy / folder)
    reader = CheckpointReader(copy)
    assert reader.strays() == {folder: why}
    assert restore(reader).step == 10
    assert f"the folder {copy / folder} is not used: {why}" in caplog.text
    with pytest.raises(UserError, match="no verified checkpoint of step 25.*verified steps: 10"):
        restore(reader, 25)
    shutil.rmtree(copy / "10")
    with pytest.raises(UserError, match=rf"no folder in .* \({folder}: {why}"):
        restore(reader)


def test_another_tree_shape_or_dtype_is_refused_by_name(two_steps):
    reader = CheckpointReader(two_steps)
    wanted = abstract(params_at(0))
    wanted["bias"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    wanted["embed"] = jax.ShapeDtypeStruct((8, 5), jnp.float32)
    del wanted["scale"]
    with pytest.raises(UserError) as caught:
        restore(reader, abstract_params=wanted)
    assert not isinstance(caught.value, CorruptionError)
    for part in (
        "missing in the checkpoint: bias",
        "extra in the checkpoint: scale",
        "embed is float32[8, 4] in the checkpoint and float32[8, 5] in the model",
    ):
        assert part in str(caught.value)
    cast = abstract(params_at(0)) | {"embed": jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)}
    with pytest.raises(UserError, match=r"embed is float32\[8, 4\] .* bfloat16\[8, 4\]"):
        restore(reader, abstract_params=cast)
