import dataclasses
import math

import engine_exports
import gguf
import numpy as np
import pytest

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.interop import gguf_file
from palmscale.interop.tensors import of_array

STEPS = {
    "bfloat16": 2**-8,
    "q8_0": 1 / 254,
    "q4_0": 1 / 8,
}  # most of an error, of a block's largest


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file of each dtype, once."""
    folder = tmp_path_factory.mktemp("gguf")

    def write(dtype):
        path = folder / f"{dtype}.gguf"
        if not path.exists():
            gguf_file.write(engine_exports.outgoing("rms_wide", dtype), path)
        return path

    return write


def test_float32_weights_come_back_bit_for_bit(written):
    outgoing = engine_exports.outgoing("rms_wide")
    _, tensors = gguf_file.read(written("float32"))
    expected = gguf_file.exported(outgoing.model, outgoing.params)
    assert list(tensors) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name].read(), tensor.read(), err_msg=name)


@pytest.mark.parametrize("dtype", STEPS)
def test_rounded_weights_are_near_and_norm_scales_are_float32(dtype, written):
    outgoing = engine_exports.outgoing("rms_wide", dtype)
    _, tensors = gguf_file.read(written(dtype))
    for name, tensor in gguf_file.exported(outgoing.model, outgoing.params).items():
        exact, found = tensor.read(), tensors[name].read()
        if exact.ndim == 1:
            np.testing.assert_array_equal(found, exact, err_msg=name)
            continue
        blocks = exact.reshape(-1, 32)
        bound = 1.2 * STEPS[dtype] * np.abs(blocks).max(axis=1, keepdims=True)
        assert np.all(np.abs(found.reshape(-1, 32) - blocks) <= bound), name


def test_a_file_of_4_bits_has_a_table_of_8(written):
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(written("q4_0")).tensors}
    assert kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.1.ffn_up.weight"] == "Q4_0"
    assert kinds["output_norm.weight"] == "F32"


def test_the_fields_say_what_llama_cpp_needs(written):
    fields, _ = gguf_file.read(written("q8_0"))
    model = engine_exports.model("rms_wide")
    own = {k.removeprefix("cohere2moe."): v for k, v in fields.items() if "cohere2moe." in k}
    assert own == {
        "vocab_size": 259, "context_length": 64, "embedding_length": 64, "block_count": 2,
        "feed_forward_length": 256, "expert_feed_forward_length": 256, "expert_count": 1,
        "expert_used_count": 1, "leading_dense_block_count": 2,
        "attention.head_count": 5, "attention.head_count_kv": 1, "attention.key_length": 32,
        "attention.value_length": 32, "attention.sliding_window": 64,
        "attention.sliding_window_pattern": [True, True], "rope.dimension_count": 32,
        "rope.freq_base": 10_000.0,
        "attention.layer_norm_rms_epsilon": np.float32(1e-6),
        "logit_scale": np.float32(model.logit_scale),
    }  # fmt: skip
    assert fields["general.architecture"] == "cohere2moe"
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0


def test_a_layer_norm_has_the_other_epsilon_and_the_scale_is_that_of_the_width(tmp_path):
    gguf_file.write(engine_exports.outgoing("layer_square"), tmp_path / "x.gguf")
    fields, _ = gguf_file.read(tmp_path / "x.gguf")
    assert "cohere2moe.attention.layer_norm_rms_epsilon" not in fields
    assert fields["cohere2moe.attention.layer_norm_epsilon"] == np.float32(1e-6)
    assert fields["cohere2moe.logit_scale"] == 1 / math.sqrt(64)


def test_the_name_and_license_of_the_origin_are_kept(tmp_path):
    origin = {"name": "mine", "license": "apache-2.0", "step": 5}
    outgoing = dataclasses.replace(engine_exports.outgoing("rms_wide"), origin=origin)
    gguf_file.write(outgoing, tmp_path / "x.gguf")
    fields, _ = gguf_file.read(tmp_path / "x.gguf")
    assert fields["general.name"] == "mine" and fields["general.license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"final_norm": "none"}, "PaLM.final_norm='none'"),
        ({"norm_eps": 0.0}, "PaLM.norm_eps=0"),
        ({"rotary": "xpos"}, "PaLM.rotary='xpos'"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_by_name(changes, told, tmp_path):
    outgoing = engine_exports.outgoing("rms_wide")
    outgoing = dataclasses.replace(outgoing, model=outgoing.model.clone(**changes))
    with pytest.raises(UserError, match=f"gguf cannot express {told}"):
        gguf_file.write(outgoing, tmp_path / "x.gguf")
    assert not any(tmp_path.iterdir())


def test_rows_that_have_no_whole_blocks_are_refused_by_name(tmp_path):
    model = PaLM(dim=48, num_tokens=259, depth=1, heads=2, dim_head=16)
    shapes = {"embedding": (259, 48), "final_norm": (48,)}
    shapes |= {f"layers/{name}": (1, 48, 48) for name in ("key", "value", "gate", "up", "down")}
    shapes |= {"layers/norm": (1, 48), "layers/query": (1, 48, 2, 16)}
    shapes["layers/attention_out"] = (1, 2, 16, 48)
    params = {name: of_array(np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    changes = dict(model=model, params=params, dtype="q8_0")
    outgoing = dataclasses.replace(engine_exports.outgoing("rms_wide"), **changes)
    with pytest.raises(UserError, match="rows of 48 values, and q8_0 quantizes blocks of 32"):
        gguf_file.write(outgoing, tmp_path / "x.gguf")


@pytest.mark.parametrize("length", [0, 3, 1000, -100])
def test_a_file_that_is_not_whole_is_refused(length, written, tmp_path):
    content = written("float32").read_bytes()
    (tmp_path / "x.gguf").write_bytes(content[:length])
    with pytest.raises(UserError, match="is not a whole GGUF file"):
        gguf_file.read(tmp_path / "x.gguf")
