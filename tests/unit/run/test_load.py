"""A loaded model is the one that was trained, and needs nothing but its checkpoint."""

import shutil

import forged
import pytest

import palmscale
from palmscale.errors import UserError


def test_a_loaded_model_is_what_was_trained_and_needs_no_configuration(small_run, result, workdir):
    trained = palmscale.load(workdir)
    assert trained.model == small_run.model and trained.step == 4 and trained.layout is None
    assert trained.vocabulary.name == "bytes" or trained.vocabulary.size == 259
    text = trained.generate("def ", max_tokens=12, temperature=0)
    assert text == trained.generate("def ", max_tokens=12, temperature=0, seed=5)
    assert palmscale.generate(workdir, "def ", max_tokens=12, temperature=0) == text
    assert palmscale.load(workdir, checkpoint=2).step == 2


def test_a_model_lands_on_a_mesh_that_is_asked_for(result, workdir):
    layout = palmscale.run.run.Layout()
    trained = palmscale.load(workdir, layout=layout)
    assert trained.layout.mesh.size == 1
    alone = palmscale.load(workdir)
    assert trained.generate("x", max_tokens=4, temperature=0) == alone.generate(
        "x", max_tokens=4, temperature=0
    )


def described(workdir, tmp_path, **fields):
    """A copy of the run whose checkpoint describes another model."""
    copy = shutil.copytree(workdir, tmp_path / "copy")

    def change(meta):
        meta["identity"]["model"] |= fields
        return meta

    forged.edit(copy / "checkpoints/4", "meta.json", change)
    return copy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 64}, "does not match the model"),
        ({"dim": 2**62}, "does not match the model"),
        ({"depth": 10**12, "scan_layers": False}, "of 1,000,000,000,000 layers and has"),
        ({"class": "flax.linen.linear:Dense"}, "if you trust flax.linen.linear, choose it"),
    ],
    ids=str,
)
def test_another_model_than_the_stored_one_is_refused_before_it_takes_memory(
    fields, message, result, workdir, tmp_path
):
    with pytest.raises(UserError, match=message):
        palmscale.load(described(workdir, tmp_path, **fields))


def test_arrays_that_the_files_cannot_hold_are_refused_before_they_take_memory(
    result, workdir, tmp_path
):
    copy = described(workdir, tmp_path, dim=2**40)

    def grown(manifest):
        for array in manifest["arrays"]["params"].values():
            array["shape"] = [{32: 2**40, 128: 2**42}.get(size, size) for size in array["shape"]]
        return manifest

    forged.edit(copy / "checkpoints/4", "MANIFEST.json", grown)
    with pytest.raises(UserError, match="params has .* bytes, but its arrays take"):
        palmscale.load(copy, checkpoint=4)


def test_a_folder_that_holds_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        palmscale.load(tmp_path)
