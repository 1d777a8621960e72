"""Weights of each original are imported, generate text, and come back as they were."""

import formula_weights
import jax
import numpy as np
import original_states
import pytest
import tensorstore as ts
import tiny_tokenizer
from flax import serialization

from palmscale.data.vocabulary import vocabulary_named
from palmscale.errors import UserError
from palmscale.interop import palm_rlhf
from palmscale.interop.layouts import Options
from palmscale.interop.tensor_files import read_tensors, write_tensors
from palmscale.interop.tensors import of_array
from palmscale.run.export import export
from palmscale.run.import_weights import import_weights
from palmscale.run.load import load

CASE = "text"
SIZES = dict(num_tokens=610, dim=16, depth=2, heads=2, dim_head=8, ff_mult=2)
OFFSET_0 = Options(norm_scale_offset=0.0, final_norm="scaled")
FILES = {  # layout: (suffix, state, options)
    "palm_flax": (".msgpack", original_states.palm_flax, Options()),
    "palm_pytorch": (".safetensors", original_states.palm_pytorch, Options()),
    "palm_rlhf": (".npz", original_states.palm_rlhf, OFFSET_0),
    "palm_jax": (".eqx", original_states.palm_jax, Options()),
}


@pytest.fixture(autouse=True)
def case(monkeypatch):
    monkeypatch.setitem(formula_weights.CASES, CASE, SIZES)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer.write(tmp_path_factory.mktemp("tokenizer"))


def write_t5x(folder, state):
    """A checkpoint as T5X writes it: kernels beside the index, scales in it."""
    tree: dict = {"version": 3, "optimizer": {"state": {"step": 5}}}
    for name, array in state.items():
        *folders, last = f"optimizer/{name}".split("/")
        node = tree
        for one in folders:
            node = node.setdefault(one, {})
        if last == "scale":
            node[last] = array
            continue
        path = name.replace("/", ".")
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {"shape": [*array.shape], "dtype": "<f4", "compressor": {"id": "gzip"}},
        }
        absolute = spec | {"kvstore": {"driver": "file", "path": f"{folder}/{path}/"}}
        ts.open(absolute, create=True).result().write(array).result()
        node[last] = spec
    (folder / "checkpoint").write_bytes(serialization.to_bytes(tree))


def written(folder, layout):
    """The file or folder of a layout with the formula's weights, and its options."""
    if layout == "t5x":
        folder = folder / "checkpoint_5"
        folder.mkdir()
        write_t5x(folder, original_states.t5x(CASE, scan_axis=1))
        return folder, Options()
    suffix, state, options = FILES[layout]
    path = folder / f"original{suffix}"
    write_tensors(path, {name: of_array(array) for name, array in state(CASE).items()})
    return path, options


@pytest.mark.parametrize("layout", [*FILES, "t5x"])
def test_an_imported_layout_generates_text_and_comes_back(layout, tmp_path, tokenizer):
    source, options = written(tmp_path, layout)
    workdir = tmp_path / "imported"
    vocabulary = "raw_bytes" if layout == "palm_pytorch" else tokenizer
    imported = import_weights(source, layout, workdir, vocabulary=vocabulary, options=options)
    trained = load(workdir)
    assert trained.step == 0 and trained.model == imported.model
    assert trained.vocabulary.digest == imported.vocabulary.digest
    scores = np.asarray(jax.jit(trained.model.apply)({"params": trained.params}, np.int32([[0]])))
    ids = scores[0, 0, 2 : trained.vocabulary.size]
    first = trained.vocabulary.decode([int(ids.argmax()) + 2])
    text = trained.generate("", max_tokens=8, temperature=0.0, logit_bias={0: -100, 1: -100})
    assert text.startswith(first)
    assert np.isfinite(trained.score(["def f(x):"])[0].log_probability)
    if layout == "t5x":
        return
    back = tmp_path / f"back{source.suffix}"
    export(workdir, layout, back)
    found, expected = read_tensors(back), read_tensors(source)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name].read(), tensor.read(), err_msg=name)


def loss(incoming, ids):
    """The model's loss per token, computed without the engine or run.likeliest."""
    tree: dict = {"layers": {}}
    for path, tensor in incoming.params.items():
        node = tree["layers"] if path.startswith("layers/") else tree
        node[path.removeprefix("layers/")] = tensor.read()
    logits = incoming.model.apply({"params": tree}, ids[None, :-1])[0]
    return -float(jax.nn.log_softmax(logits)[np.arange(len(ids) - 1), ids[1:]].mean())


def test_the_model_under_which_the_text_is_likeliest_is_chosen(tmp_path, tokenizer):
    source, _ = written(tmp_path, "palm_rlhf")
    with pytest.raises(UserError, match="may hold several models .*norm_scale_offset=0.0"):
        import_weights(source, "palm_rlhf", tmp_path / "open", vocabulary=tokenizer)
    text, vocabulary = "aaaaaaa", vocabulary_named(tokenizer)
    (tmp_path / "text.txt").write_text(text)
    found = import_weights(
        source,
        "palm_rlhf",
        tmp_path / "chosen",
        vocabulary=tokenizer,
        text_files=[str(tmp_path / "text.txt")],
    )
    ids = np.concatenate([[vocabulary.bos_id], vocabulary.encode(text)])
    candidates = palm_rlhf.read(source, Options())
    best = min(candidates, key=lambda candidate: loss(candidate, ids))
    assert (found.choice, found.model) == (best.choice, best.model)
    assert found.choice == Options(norm_scale_offset=1.0, final_norm="scaled")


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path):
    source, _ = written(tmp_path, "palm_flax")
    large = tiny_tokenizer.write(tmp_path / "large", tiny_tokenizer.byte_level(size=700))
    with pytest.raises(UserError, match="has 701 tokens, and the model's table has 610 rows"):
        import_weights(source, "palm_flax", tmp_path / "imported", vocabulary=large)
