"""Runs exported weights in the engines that they are for, where those are installed."""

import importlib.util
import json
import urllib.request
from pathlib import Path

import numpy as np

_ANSWER_SECONDS = 600


class DidNotRun(Exception):
    """The engine did not run; the message is the reason."""


def run_transformers(folder: Path, tokens_L: np.ndarray) -> np.ndarray:
    """Returns transformers' log-probabilities [V] of the token after the given ones, in float32.

    Raises:
        DidNotRun: transformers or torch is not installed, or does not have the architecture.
    """
    _check_installed("torch", "transformers")
    import torch
    import transformers

    if not hasattr(transformers, "Cohere2MoeForCausalLM"):
        raise DidNotRun(f"version {transformers.__version__} does not have Cohere2MoeForCausalLM")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits_V = model(torch.as_tensor(tokens_L[None].astype(np.int64))).logits[0, -1]
    return torch.log_softmax(logits_V.double(), dim=-1).numpy()


def run_llama_cpp(path: Path, tokens_L: np.ndarray, *, num_tokens: int, end_id: int) -> np.ndarray:
    """Returns llama.cpp's log-probabilities [V] of the next token; see `next_token`.

    Raises:
        DidNotRun: xllamacpp, which brings llama.cpp to Python, is not installed, or its version
            does not load the file.
    """
    _check_installed("xllamacpp")
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 2 * len(tokens_L)
    params.n_parallel = 1
    params.port = 0
    params.warmup = False
    # By default keys and values are float16.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_gpu_layers = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:  # an older llama.cpp, without the architecture
        raise DidNotRun("the version in the package xllamacpp did not load the file") from None
    return next_token(server.listening_address, tokens_L, num_tokens=num_tokens, end_id=end_id)


def next_token(url: str, tokens_L: np.ndarray, *, num_tokens: int, end_id: int) -> np.ndarray:
    """Returns the log-probabilities [V] of the token after the given ones, of a llama.cpp server.

    Args:
        url: of the server.
        tokens_L: ids of one text.
        num_tokens: V.
        end_id: the token that the server draws, so that there is a next token: it reports none as
            long as a character is incomplete. The log-probabilities are those before the bias.
    """
    asked = {
        "prompt": tokens_L.tolist(),
        "n_predict": 1,
        "n_probs": num_tokens,
        "logit_bias": [[end_id, 1e3]],
        "cache_prompt": False,
    }
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
        (place,) = json.load(answer)["completion_probabilities"]
    found_V = np.full(num_tokens, np.nan)
    for token in place["top_logprobs"]:
        found_V[token["id"]] = token["logprob"]
    return found_V


def _check_installed(*packages: str) -> None:
    for package in packages:
        if not importlib.util.find_spec(package):
            raise DidNotRun(f"the package {package} is not installed")
