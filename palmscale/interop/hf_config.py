"""config.json of Hugging Face's layout, for `Cohere2MoeForCausalLM` with every layer dense."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmscale.errors import UserError
from palmscale.exit_codes import printable
from palmscale.interop.expressible import check_is_cohere
from palmscale.interop.layouts import Outgoing
from palmscale.model.palm import PaLM

ARCHITECTURE, MODEL_TYPE = "Cohere2MoeForCausalLM", "cohere2_moe"
_ROPE_THETA = 10_000.0


def of_model(outgoing: Outgoing) -> dict[str, Any]:
    """Returns the config of a model.

    Raises:
        UserError: it cannot be expressed.
    """
    model = check_is_cohere(outgoing.model, "hf")
    width = model.ff_mult * model.dim
    length = outgoing.context_length
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": outgoing.dtype,
        "vocab_size": model.num_tokens,
        "hidden_size": model.dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "num_key_value_heads": 1,
        "head_dim": model.dim_head,
        "intermediate_size": width,
        "prefix_dense_intermediate_size": width,
        "hidden_act": "silu",
        "layer_norm_eps": model.norm_eps,
        "rms_norm_eps": model.norm_eps if model.norm == "rms" else None,
        "logit_scale": model.dim**-0.5 if model.logit_scale is None else model.logit_scale,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": length,
        "rope_theta": _ROPE_THETA,
        "rope_parameters": {"rope_type": "default", "rope_theta": _ROPE_THETA},
        "mlp_layer_types": ["dense"] * model.depth,
        # A window of the whole context cuts nothing. Layers of the type `full_attention` have no
        # rotary positions there.
        "layer_types": ["sliding_attention"] * model.depth,
        "sliding_window": length,
        "prefix_dense_sliding_window_pattern": 1,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "bos_token_id": outgoing.vocabulary.bos_id,
        "eos_token_id": outgoing.vocabulary.eod_id,
        # transformers would give the table's row of this id, which is also bos, no gradient.
        "pad_token_id": None,
    }


def model_of(config: Mapping[str, Any]) -> PaLM:
    """Returns the module that a config describes.

    Raises:
        UserError: it describes another architecture, or what PaLM cannot express.
    """
    _check_is_dense_cohere(config)
    dim, width = _count(config, "hidden_size"), config.get("prefix_dense_intermediate_size")
    width = _count(config, "intermediate_size") if width is None else width
    if not isinstance(width, int) or width <= 0 or width % dim:
        raise _unlike("prefix_dense_intermediate_size", width, f"a multiple of hidden_size={dim}")
    rms = config.get("rms_norm_eps")
    return PaLM(
        dim=dim,
        num_tokens=_count(config, "vocab_size"),
        depth=_count(config, "num_hidden_layers"),
        heads=_count(config, "num_attention_heads"),
        dim_head=_count(config, "head_dim"),
        ff_mult=width // dim,
        norm="layer" if rms is None else "rms",
        norm_eps=_number(config, "layer_norm_eps" if rms is None else "rms_norm_eps"),
        norm_scale_offset=0.0,
        logit_scale=_number(config, "logit_scale"),
    )


def read(path: Path) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Raises:
        UserError: it cannot be read, or holds no object.
    """
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); use an intact copy.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no JSON object; use an intact copy.")
    return config


def is_ours(config: Mapping[str, Any]) -> bool:
    """Returns whether a config names the architecture that PaLM is imported from."""
    return config.get("architectures") == [ARCHITECTURE] or config.get("model_type") == MODEL_TYPE


def another_architecture(where: str | Path, config: Mapping[str, Any]) -> UserError:
    """Returns the error for a config of an architecture that palmscale does not import."""
    found = config.get("architectures")
    told = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    return UserError(
        f"{where} describes {printable(told)[:100]}; palmscale imports {ARCHITECTURE} with every"
        " layer dense, as it exports."
    )


def _check_is_dense_cohere(config: Mapping[str, Any]) -> None:
    if not is_ours(config):
        raise another_architecture("config.json", config)
    depth, length = config.get("num_hidden_layers"), config.get("max_position_embeddings")
    expected = {
        "num_key_value_heads": 1,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_scaling": None,
    }
    defaults = {"hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False}
    for field, value in expected.items():
        if (found := config.get(field, defaults.get(field))) != value:
            raise _unlike(field, found, f"{value}")
    for field, value in (("mlp_layer_types", "dense"), ("layer_types", "sliding_attention")):
        found = config.get(field)
        if not isinstance(found, list) or len(found) != depth or any(x != value for x in found):
            raise _unlike(field, found, f"{value!r} for each of num_hidden_layers={depth}")
    window = config.get("sliding_window")
    if isinstance(window, int) and isinstance(length, int) and window < length:
        raise _unlike("sliding_window", window, f"max_position_embeddings={length} or more")
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta", _ROPE_THETA))
    if theta != _ROPE_THETA or rope.get("rope_type", "default") != "default":
        raise _unlike("rope_parameters", rope or theta, f"rope_theta={_ROPE_THETA:g}, unscaled")


def _count(config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if type(value) is not int or value < 1:
        raise _unlike(field, value, "a number of 1 or more")
    return value


def _number(config: Mapping[str, Any], field: str) -> float:
    value = config.get(field)
    if type(value) not in (int, float):
        raise _unlike(field, value, "a number")
    return float(value)


def _unlike(field: str, found: Any, expected: str) -> UserError:
    told = printable(str(found))[:100]
    return UserError(f"config.json: {field}={told} is not PaLM's; expected {expected}.")
