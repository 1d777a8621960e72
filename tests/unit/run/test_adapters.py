"""Adapters are stored apart from their base, found with it, and refused beside another one."""

import json
import shutil

import jax
import numpy as np
import pytest

import palmscale
from palmscale.errors import UserError
from palmscale.interop.safetensors_file import read_safetensors, write_safetensors
from palmscale.model.interface import variables_of
from palmscale.model.lora import adapters_of, base_of
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.run.adapters import open_adapter
from palmscale.run.export import export
from palmscale.run.quantize import quantize
from palmscale.run.workdir import checkpoints

TEXT = "def a(x):\n    return x + 'a'\n"


def log_probability(trained):
    return trained.score([TEXT])[0].log_probability


@pytest.fixture(scope="module")
def base(result, workdir):
    return palmscale.load(workdir)


@pytest.fixture(scope="module")
def adapted(adapter_workdir):
    return palmscale.load(adapter_workdir)


@pytest.fixture(scope="module")
def file(adapter_workdir, tmp_path_factory):
    """The adapter as a file."""
    path = tmp_path_factory.mktemp("file") / "adapter.safetensors"
    export(adapter_workdir, "adapter", path)
    return path


def test_a_checkpoint_holds_the_adapters_their_optimizer_state_and_the_bases_digest(
    adapter_workdir, workdir
):
    step = adapter_workdir / "checkpoints/4"
    arrays = json.loads((step / "MANIFEST.json").read_text())["arrays"]
    names = {
        f"layers/{weight}/{part}"
        for weight in ("query", "value", "attention_out", "down")
        for part in ("down", "up")
    }
    assert arrays["params"].keys() == names
    moments = {name.split("/", 3)[3] for name in arrays["optimizer"] if "layers" in name}
    assert moments == names
    meta = json.loads((step / "meta.json").read_text())
    lora = meta["identity"]["trainable"]
    assert (lora["rank"], lora["alpha"], len(lora["targets"])) == (2, 64.0, 4)
    assert meta["warm_start"]["workdir"] == str(workdir) and meta["warm_start"]["step"] == 4
    assert meta["warm_start"]["digest"] == checkpoints(workdir).params_digest(4)


def test_a_run_of_adapters_is_loaded_with_its_base_and_a_base_with_its_adapters(
    base, adapted, adapter_workdir, workdir, file
):
    others = [palmscale.load(workdir, adapter=source) for source in (adapter_workdir, file)]
    values = [log_probability(trained) for trained in (adapted, *others)]
    assert len(set(values)) == 1 and abs(values[0] - log_probability(base)) > 1e-3
    assert adapted.step == 4 and adapted.meta["identity"]["trainable"]["rank"] == 2
    assert others[0].step == 4 and "trainable" not in others[0].meta["identity"]
    jax.tree.map(np.testing.assert_array_equal, base_of(adapted.params), base.params)


@pytest.fixture(scope="module")
def text(adapted):
    return adapted.generate("def ", max_tokens=6, temperature=0, ignore_eos=True)


def test_text_is_generated_without_merging(adapted, text):
    ids, wanted = adapted.vocabulary.encode("def "), []
    logits = jax.jit(adapted.model.apply)
    row_BL = np.zeros((1, 16), np.int32)
    for length in range(len(ids) + 1, len(ids) + 7):
        row_BL[0, 1:length] = [*ids, *wanted]
        whole = logits(variables_of(adapted.params), row_BL)
        wanted.append(int(np.argmax(whole[0, length - 1, :259])))
    assert text == adapted.vocabulary.decode(wanted)


def test_adapters_lie_in_any_layout(adapter_workdir, adapted, text):
    here = palmscale.load(adapter_workdir, layout=Layout(mesh=MeshSpec(data=1, model=1)))
    assert log_probability(here) == pytest.approx(log_probability(adapted), abs=1e-4)
    assert here.generate("def ", max_tokens=6, temperature=0, ignore_eos=True) == text


def test_a_quantized_base_takes_the_adapter_of_what_it_was_made_from(
    adapted, adapter_workdir, workdir, tmp_path
):
    quantize(workdir, tmp_path / "int8")
    stored = palmscale.load(tmp_path / "int8", adapter=adapter_workdir)
    loaded = palmscale.load(workdir, adapter=adapter_workdir, quantize="int8")
    assert log_probability(stored) == log_probability(loaded)
    assert abs(log_probability(stored) - log_probability(adapted)) < 0.5


def test_an_evaluation_is_that_of_the_adapted_model(
    small_run, adapter_run, adapter_workdir, workdir, file
):
    own = palmscale.evaluate(adapter_run, adapter_workdir).metrics
    for source in (adapter_workdir, file):
        assert palmscale.evaluate(small_run, workdir, adapter=source).metrics == own
    assert palmscale.evaluate(small_run, workdir).metrics["eval_loss"] != own["eval_loss"]


def test_the_file_is_its_parameters_and_at_most_4_kib(file, adapted, adapter_workdir):
    leaves = jax.tree.leaves(adapters_of(adapted.params))
    parameters = sum(leaf.size for leaf in leaves)
    assert 0 < file.stat().st_size - 4 * parameters <= 4096
    opened = open_adapter(file)
    assert opened.lora == open_adapter(adapter_workdir).lora and opened.base["step"] == 4


def test_the_base_may_have_moved_and_is_known_by_its_parameters(adapter_workdir, workdir, adapted):
    moved = workdir.rename(workdir.with_name("moved"))
    try:
        found = palmscale.load(moved, adapter=adapter_workdir)
        with pytest.raises(UserError, match=r"adapters for the run in \S+run, which is not there"):
            palmscale.load(adapter_workdir)
    finally:
        moved.rename(workdir)
    assert log_probability(found) == log_probability(adapted)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_an_adapter_for_another_base_is_refused(
    form, adapter_workdir, adapter_run, workdir, file, tmp_path
):
    adapter = adapter_workdir if form == "folder" else file
    with pytest.raises(UserError, match="trained on step 4 of .* checkpoint 2 in .* other param"):
        palmscale.load(workdir, 2, adapter=adapter)
    other = tmp_path / "other"
    shutil.copytree(workdir / "vocabulary", other / "vocabulary")
    shutil.copytree(workdir / "checkpoints/2", other / "checkpoints/2")
    with pytest.raises(UserError, match="but no checkpoint in .*other has these parameters"):
        palmscale.load(other, adapter=adapter)


def test_what_is_no_adapter_is_refused(adapter_workdir, workdir, file, tmp_path):
    with pytest.raises(UserError, match="is a run of whole parameters; name the folder of a run"):
        palmscale.load(workdir, adapter=workdir)
    with pytest.raises(UserError, match="trained adapters .* hold nothing else"):
        palmscale.load(adapter_workdir, adapter=adapter_workdir)
    with pytest.raises(UserError, match="there is no run in"):
        palmscale.load(workdir, adapter=tmp_path / "none")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="cut.safetensors is not whole"):
        palmscale.load(workdir, adapter=cut)
    tensors = read_safetensors(file)
    foreign = tmp_path / "foreign.safetensors"
    write_safetensors(foreign, tensors)
    with pytest.raises(UserError, match="foreign.safetensors is not an adapter that palmscale"):
        palmscale.load(workdir, adapter=foreign)


def test_whole_parameters_are_no_adapter_and_adapters_are_no_base(
    adapter_run, adapter_workdir, workdir, tmp_path
):
    with pytest.raises(UserError, match="the layout adapter holds adapters, and the run in"):
        export(workdir, "adapter", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="trained adapters .* hold nothing else"):
        export(adapter_workdir, "safetensors", tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="trained adapters .* hold nothing else"):
        quantize(adapter_workdir, tmp_path / "int8")
    with pytest.raises(UserError, match="average=2: adapters are not averaged"):
        export(adapter_workdir, "adapter", tmp_path / "x.safetensors", average=2)
