"""Hugging Face's layout: what is written, and that it comes back bit for bit."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from outgoing_model import MODEL, arrays, outgoing

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.interop import hf
from palmscale.interop.layouts import Options
from palmscale.interop.safetensors_file import read_safetensors, write_shards
from palmscale.interop.tensors import of_array
from palmscale.trees import nested


def changed(**fields):
    return outgoing(dataclasses.replace(MODEL, **fields))


@pytest.fixture
def folder(tmp_path):
    hf.write(outgoing(), tmp_path / "out")
    return tmp_path / "out"


def test_the_folder_has_what_transformers_and_the_hub_read(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocabulary",
    ]
    ids = json.loads((folder / "generation_config.json").read_text())
    assert (ids["bos_token_id"], ids["eos_token_id"]) == (0, 1)


def test_kernels_are_transposed_queries_interleaved_and_scales_plain(folder):
    ours, theirs = arrays(), read_safetensors(folder)
    D, H, K = MODEL.dim, MODEL.heads, MODEL.dim_head
    assert theirs["model.embed_tokens.weight"].shape == (259, D)
    query = theirs["model.layers.1.self_attn.q_proj.weight"].read()
    order = [0, 2, 1, 3]  # of a head of 4: pairs (0, 2) and (1, 3) become neighbors
    assert np.array_equal(
        query.reshape(H, K, D), ours["layers/query"][1].transpose(1, 2, 0)[:, order]
    )
    out = theirs["model.layers.0.self_attn.o_proj.weight"].read()
    assert np.array_equal(out, ours["layers/attention_out"][0].reshape(H * K, D).T)
    norm = theirs["model.layers.0.input_layernorm.weight"].read()
    assert np.array_equal(norm, ours["layers/norm"][0] + 1)
    assert np.array_equal(theirs["model.norm.weight"].read(), ours["final_norm"] + 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("final_norm", ["scaled", "unscaled"])
def test_exported_and_imported_again_the_files_have_the_same_bytes(dtype, final_norm, tmp_path):
    first = dataclasses.replace(changed(final_norm=final_norm), dtype=dtype)
    hf.write(first, tmp_path / "1")
    (found,) = hf.read(tmp_path / "1", Options())
    second = dataclasses.replace(
        first, model=found.model, params=found.params, vocabulary=found.vocabulary
    )
    assert found.context_length == 64
    hf.write(second, tmp_path / "2")
    for file in (tmp_path / "1").rglob("*.*"):
        twin = tmp_path / "2" / file.relative_to(tmp_path / "1")
        assert file.read_bytes() == twin.read_bytes(), file.name


@pytest.mark.parametrize(
    "fields",
    [
        dict(),
        dict(norm="layer", norm_eps=1e-5, norm_scale_offset=0.0, final_norm="unscaled"),
        dict(heads=8, logit_scale=0.5),
    ],
)
def test_the_imported_model_has_the_same_logits(fields):
    model = dataclasses.replace(MODEL, **fields)
    made = outgoing(model)
    there = hf.exported(model, made.params)
    found, params = hf.imported(hf.hf_config.of_model(made), there)
    tokens = jnp.array([[0, 5, 258, 7, 0, 99, 100, 42]])

    def logits(model, params):
        params = nested({name: tensor.read() for name, tensor in params.items()})
        return jax.jit(model.apply)({"params": params}, tokens)[..., :259]

    np.testing.assert_allclose(
        logits(found, params), logits(model, made.params), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(rotary="xpos"), "the layout hf cannot express PaLM.rotary='xpos'"),
        (dict(final_norm="none"), "the layout hf cannot express PaLM.final_norm='none'"),
    ],
)
def test_what_it_cannot_express_is_refused_by_name(fields, said, tmp_path):
    with pytest.raises(UserError, match=said):
        hf.write(changed(**fields), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_unknown_and_misshapen_tensors_are_listed(folder):
    tensors = {name: of_array(one.read()) for name, one in read_safetensors(folder).items()}
    tensors["lm_head.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    write_shards(folder, tensors)
    with pytest.raises(UserError) as error:
        hf.read(folder, Options())
    assert "missing: model.layers.1.mlp.up_proj.weight [32, 16]" in str(error.value)
    assert "unknown: lm_head.weight [32, 16]" in str(error.value)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    with pytest.raises(UserError, match=r"embed_tokens.weight is \[259, 16\] and must be \[300"):
        hf.read(folder, Options())


def test_a_folder_without_config_or_weights_is_told(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model.safetensors cannot be read"):
        hf.read(folder, Options())
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="config.json is missing"):
        hf.read(folder, Options())


def test_weights_of_bfloat16_come_back_as_float32(tmp_path):
    hf.write(dataclasses.replace(outgoing(), dtype="bfloat16"), tmp_path / "out")
    (found,) = hf.read(tmp_path / "out", Options())
    rounded = arrays()["layers/down"].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(found.params["layers/down"].read(), rounded)
    assert isinstance(found.vocabulary, ByteVocabulary)
