"""config.json: the fields that transformers reads, and what is not PaLM's is told by name."""

import dataclasses

import pytest
from outgoing_model import MODEL, outgoing

from palmscale.errors import UserError
from palmscale.interop import hf_config


def config(**fields):
    return hf_config.of_model(outgoing(dataclasses.replace(MODEL, **fields)))


def test_a_model_of_rms_norm_is_described():
    found = config()
    expected = {
        "architectures": ["Cohere2MoeForCausalLM"],
        "model_type": "cohere2_moe",
        "vocab_size": 259,
        "hidden_size": 16,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "prefix_dense_intermediate_size": 32,
        "rms_norm_eps": 1e-6,
        "logit_scale": 0.25,
        "mlp_layer_types": ["dense", "dense"],
        "layer_types": ["sliding_attention", "sliding_attention"],
        "sliding_window": 64,
        "max_position_embeddings": 64,
        "eos_token_id": 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_a_model_of_layer_norm_has_no_rms_epsilon():
    found = config(norm="layer", norm_eps=1e-5, logit_scale=1.0)
    assert (found["rms_norm_eps"], found["layer_norm_eps"], found["logit_scale"]) == (None, 1e-5, 1)


def test_the_fields_come_back():
    found = hf_config.model_of(config(norm="layer", norm_eps=1e-5))
    expected = dict(dim=16, num_tokens=259, depth=2, heads=3, dim_head=4, ff_mult=2, norm="layer")
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.norm_eps, found.norm_scale_offset, found.logit_scale) == (1e-5, 0.0, 0.25)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 is not PaLM's; expected 1"),
        ({"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
        ({"sliding_window": 8}, "sliding_window=8 .* expected max_position_embeddings=64 or more"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_parameters"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling"),
        ({"prefix_dense_intermediate_size": 33}, "a multiple of hidden_size=16"),
        ({"hidden_size": None}, "hidden_size=None"),
        ({"num_hidden_layers": "2"}, "mlp_layer_types"),
        ({"logit_scale": "1"}, "logit_scale=1 is not PaLM's; expected a number"),
    ],
)
def test_another_model_is_refused_by_the_field_that_tells_it(fields, said):
    with pytest.raises(UserError, match=said):
        hf_config.model_of(config() | fields)


def test_a_config_that_transformers_saved_is_read():
    # As transformers 5.24 writes it: more fields, and null for those that are not set.
    more = {"rope_scaling": None, "num_shared_experts": 0, "use_cache": True, "dtype": "float32"}
    assert hf_config.model_of(config() | more) == hf_config.model_of(config())


@pytest.mark.parametrize("text", ["[]", "{", ""])
def test_a_file_that_is_no_object_is_told(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
        hf_config.read(tmp_path / "config.json")
