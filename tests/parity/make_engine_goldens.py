"""Writes engines.npz and engines.json: what transformers and llama.cpp make of our exports.

The exports are written where palmscale is installed, and run where the engines are:

    PYTHONPATH=. python tests/parity/make_engine_goldens.py write FOLDER
    pip install torch==2.13.0 transformers==5.24.0 xllamacpp==2026.10.11549 gguf==0.19.0
    python tests/parity/make_engine_goldens.py run FOLDER [RESULTS.npz RESULTS.json]

engines.npz has for each case of engine_cases.py the logits of transformers, the tokens that it
generates with its cache, and the log-probabilities of llama.cpp, at POSITIONS. engines.json has
the digest of the exported tensors that gave them, and for each vocabulary a digest of the ids that
either engine gives hostile_texts.py. The tests compare both digests with what palmscale exports.
"""

import hashlib
import json
import pathlib
import sys
import urllib.request

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "support" / name) for name in ("programs", "text")]
import engine_cases  # noqa: E402
import hostile_texts  # noqa: E402

ROUNDED = ("bfloat16", "q8_0", "q4_0")
VOCABULARIES = ("bytes", "raw_bytes", "bpe", "bpe_prefix", "tokenizer")


def write(folder: pathlib.Path) -> None:
    import engine_exports

    from palmscale.interop import gguf_file, hf

    for case in engine_cases.CASES:
        hf.write(engine_exports.outgoing(case), folder / case)
        for dtype in ("float32", *ROUNDED):
            gguf_file.write(engine_exports.outgoing(case, dtype), folder / f"{case}.{dtype}.gguf")
    for name in VOCABULARIES:
        outgoing = engine_exports.with_vocabulary(name)
        hf.write(outgoing, folder / name)
        gguf_file.write(outgoing, folder / f"{name}.gguf")
    digests = {case: engine_exports.digests(case) for case in engine_cases.CASES}
    digests |= {name: engine_exports.vocabulary_digests(name) for name in VOCABULARIES}
    (folder / "digests.json").write_text(json.dumps(digests))


def run_transformers(folder: pathlib.Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (float32 logits [LENGTH, V], the tokens that follow [GENERATED])."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / case, dtype=torch.float32)
    tokens_1L = torch.as_tensor(engine_cases.tokens(case)[None]).long()
    with torch.no_grad():
        logits = model(tokens_1L).logits[0].numpy()
        options = dict(do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=0)
        text = model.generate(tokens_1L, max_new_tokens=engine_cases.GENERATED, **options)
    return logits, text[0, engine_cases.LENGTH :].numpy()


class LlamaCpp:
    """llama.cpp with a file, with float32 keys and values."""

    def __init__(self, path: pathlib.Path):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port, params.warmup = 64, 1, 0, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)

    def post(self, route: str, **body) -> dict:
        url, text = self._server.listening_address + route, json.dumps(body).encode()
        request = urllib.request.Request(url, text, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Returns those of the token after the given ones [V]."""
        # The server reports no token as long as a character is incomplete; so it is told to draw
        # the end. The log-probabilities are those before the bias.
        answer = self.post(
            "/completion", prompt=tokens.tolist(), n_predict=1, n_probs=engine_cases.NUM_TOKENS,
            logit_bias=[[1, 1e3]], cache_prompt=False,
        )  # fmt: skip
        (place,) = answer["completion_probabilities"]
        found = np.full(engine_cases.NUM_TOKENS, np.nan, np.float32)
        for token in place["top_logprobs"]:
            found[token["id"]] = token["logprob"]
        return found

    def ids(self, text: str) -> list[int]:
        asked = dict(content=text, add_special=True, parse_special=False)
        return self.post("/tokenize", **asked)["tokens"]


def run_vocabulary(folder: pathlib.Path, name: str) -> dict:
    """Returns the digests of the ids that either engine gives, also of texts without U+2581."""
    from transformers import AutoTokenizer

    texts = hostile_texts.hostile_texts()
    tokenizer, llama_cpp = (
        AutoTokenizer.from_pretrained(folder / name),
        LlamaCpp(folder / f"{name}.gguf"),
    )
    return {
        "transformers": digest([tokenizer(text)["input_ids"] for text in texts]),
        "llama.cpp": digest([llama_cpp.ids(text) for text in texts]),
        "llama.cpp without U+2581": digest(
            [llama_cpp.ids(text) for text in texts if "\u2581" not in text]
        ),
    }


def digest(ids: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def run(folder: pathlib.Path, arrays: pathlib.Path, facts: pathlib.Path) -> None:
    found, digests = {}, json.loads((folder / "digests.json").read_text())
    worst = dict.fromkeys(ROUNDED, 0.0)
    positions = list(engine_cases.POSITIONS)
    for case in engine_cases.CASES:
        tokens = engine_cases.tokens(case)
        logits, generated = run_transformers(folder, case)
        exact = LlamaCpp(folder / f"{case}.float32.gguf")
        found[f"{case}/logits"] = logits[positions]
        found[f"{case}/generated"] = generated
        found[f"{case}/log_probabilities"] = np.stack(
            [exact.log_probabilities(tokens[: n + 1]) for n in positions]
        )
        for dtype in ROUNDED:
            rounded = LlamaCpp(folder / f"{case}.{dtype}.gguf")
            for n in range(engine_cases.LENGTH):
                ours = logits[n] - np.log(np.exp(logits[n].astype(np.float64)).sum())
                moved = np.abs(rounded.log_probabilities(tokens[: n + 1]) - ours).max()
                worst[dtype] = max(worst[dtype], float(moved))
    for name in VOCABULARIES:
        digests[name] |= run_vocabulary(folder, name)
    np.savez_compressed(arrays, **found)
    facts.write_text(json.dumps(digests | {"worst": worst}, indent=2) + "\n")
    print("worst difference of llama.cpp's log-probabilities from float32:", worst)


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    folder, *results = map(pathlib.Path, paths)
    if command == "write":
        write(folder)
    else:
        run(folder, *(results or (HERE / "engines.npz", HERE / "engines.json")))
