"""The reference is checked against engines in tests/parity; here, against sums by hand."""

import engine_exports
import numpy as np
import pytest

from palmscale.interop import hf, hf_config, reference
from palmscale.interop.tensors import of_array


def architecture(**changes):
    config = hf_config.of_model(engine_exports.outgoing("rms_wide")) | changes
    return reference.of_config(config)


def test_a_config_with_an_epsilon_for_rms_has_rms_norms():
    assert architecture().rms and architecture().norm_eps == 1e-6
    other = architecture(rms_norm_eps=None, layer_norm_eps=1e-5)
    assert not other.rms and other.norm_eps == 1e-5


def test_one_token_attends_to_itself_alone():
    """Then attention is v, whatever q and k are."""
    one = reference.Architecture(
        layers=1, heads=1, head_dim=2, rms=True, norm_eps=0.0, rope_theta=1e4, logit_scale=0.5
    )
    eye, zeros = np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32)
    layer = {
        "input_layernorm": np.ones(2, np.float32),
        "self_attn.q_proj": eye, "self_attn.k_proj": eye,
        "self_attn.v_proj": 3 * eye, "self_attn.o_proj": eye,
        "mlp.gate_proj": eye, "mlp.up_proj": eye, "mlp.down_proj": zeros,
    }  # fmt: skip
    tensors = {f"model.layers.0.{name}.weight": of_array(a) for name, a in layer.items()}
    tensors["model.embed_tokens.weight"] = of_array(np.array([[1, 1], [1, -1]], np.float32))
    tensors["model.norm.weight"] = of_array(np.ones(2, np.float32))
    found = reference.logits(one, tensors, np.array([0]))
    np.testing.assert_allclose(found, [[1.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("name", ["query", "key", "value", "gate", "up", "down", "attention_out"])
def test_each_kernel_moves_the_logits(name):
    outgoing = engine_exports.outgoing("layer_wide")
    kernel = outgoing.params[f"layers/{name}"]
    doubled = outgoing.params | {f"layers/{name}": of_array(2 * kernel.read())}
    config = reference.of_config(hf_config.of_model(outgoing))
    tokens = np.arange(5)
    first, second = (
        reference.logits(config, hf.exported(outgoing.model, params), tokens)
        for params in (outgoing.params, doubled)
    )
    assert np.abs(first - second).max() > 1e-3
