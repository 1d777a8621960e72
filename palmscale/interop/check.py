"""The exporter's own check: what was written gives the model's logits, as other engines read it.

A model that was exported with the wrong norm still writes fluent text: only its logits tell.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from palmscale.interop import layerwise, reference
from palmscale.interop.engines import DidNotRun
from palmscale.interop.layouts import Outgoing
from palmscale.interop.reference import Architecture
from palmscale.storage.tensor import Tensors

# The most that log-probabilities may differ by, by the dtype of the written weights, while logits
# are at most 5, as in a model that was just initialized; larger ones move in proportion.
BOUNDS = {"bfloat16": 0.05, "q8_0": 0.2, "q4_0": 2.0}
_LARGE_LOGIT = 5.0
# Of float32 weights, logits may differ by this share of the largest one: rounding makes 2e-6 in 8
# layers, and more in more of them.
_ROUNDING, _ROUNDING_LAYERS = 1e-5, 8
_TOKENS = 16
_MEMORY = Path("/proc/meminfo")
UNCHECKED = "The logits were not checked: that takes more memory than is free."

# Returns an engine's log-probabilities [V] of the token after the given ones, or raises DidNotRun.
Engine = Callable[[np.ndarray], np.ndarray]


def compare(
    outgoing: Outgoing,
    architecture: Architecture,
    written: Tensors,
    exported: Tensors,
    *,
    engine: Engine,
    engine_name: str,
) -> str:
    """Returns what was compared, and how far it differs, as a sentence.

    Args:
        outgoing: what was exported.
        architecture: read from what was written.
        written: tensors read from it, by the names of Hugging Face.
        exported: the float32 tensors that were rounded to make `written`.
        engine: that it was written for.
        engine_name: its name.

    Raises:
        RuntimeError: the logits differ by more than rounding.
    """
    if is_too_large(3 * layerwise.layer_bytes(outgoing.params)):
        return UNCHECKED
    tokens_L = sample_tokens(outgoing.model.num_tokens, min(_TOKENS, outgoing.context_length))
    ours_LV = layerwise.logits(outgoing.model, outgoing.params, tokens_L)
    exact = written if outgoing.dtype == "float32" else exported
    found_LV = reference.logits(architecture, exact, tokens_L)
    largest = np.abs(ours_LV).max()
    bound = _ROUNDING * largest * max(1.0, architecture.layers / _ROUNDING_LAYERS)
    worst = _difference("logits", found_LV, ours_LV, bound)
    said = f"The logits of {len(tokens_L)} tokens, computed from what was written as"
    said += f" {engine_name} does, differ from the model's by at most {worst:.1e}"
    most = 2 * bound
    if outgoing.dtype in BOUNDS:
        most = BOUNDS[outgoing.dtype] * max(1.0, largest / _LARGE_LOGIT)
    ours_LV = log_softmax(ours_LV)
    if outgoing.dtype != "float32":
        found_LV = log_softmax(reference.logits(architecture, written, tokens_L))
        worst = _difference("log-probabilities", found_LV, ours_LV, most)
        said += f" before rounding to {outgoing.dtype}; log-probabilities after it by {worst:.1e}"
    try:
        if is_too_large(sum(tensor.bytes for tensor in exported.values())):
            raise DidNotRun("it takes more memory than is free")
        found_V = engine(tokens_L)
    except DidNotRun as reason:
        return f"{said}; {engine_name} itself did not run: {reason}."
    worst = _difference(f"log-probabilities of {engine_name}", found_V, ours_LV[-1], most)
    return f"{said}; {engine_name} itself ran, and its log-probabilities differ by {worst:.1e}."


def is_too_large(needed_bytes: int) -> bool:
    """Returns whether this is more memory than is free, where the system tells."""
    text = _MEMORY.read_text() if _MEMORY.exists() else ""
    free = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return free is not None and needed_bytes > int(free[1]) * 1024


def sample_tokens(num_tokens: int, length: int) -> np.ndarray:
    """Returns int32 ids [length] from all of the vocabulary, beginning with 0."""
    return (np.arange(length, dtype=np.int64) * 7919 % num_tokens).astype(np.int32)


def log_softmax(logits_LV: np.ndarray) -> np.ndarray:
    """Returns float64 log-probabilities."""
    shifted = logits_LV.astype(np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _difference(what: str, found: np.ndarray, ours: np.ndarray, most: float) -> float:
    if found.shape != ours.shape:
        raise RuntimeError(f"{what} have the shape {found.shape}; the model's have {ours.shape}.")
    worst = float(np.abs(found - ours).max())
    if not worst <= most:
        equal = np.mean(found.argmax(axis=-1) == ours.argmax(axis=-1))
        raise RuntimeError(
            f"{what} computed from what was written differ from the model's by up to {worst:.2g},"
            f" and at most {most:.1g} is rounding; the likeliest token is the same in"
            f" {equal:.0%} of the places. This export is wrong, which is a bug: please report it."
        )
    return worst
