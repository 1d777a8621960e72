"""Engines that generate with one model's weights, each in a process of its own on one core.

generate.py starts `PYTHON generate_contestants.py ENGINE WEIGHTS CORE`, asks by lines of JSON, and
reads the answers. Each engine is imported by its own class only, since others lack it.
"""

import json
import math
import os
import pathlib
import re
import sys
import time

TOP = 300  # likeliest ids of which the log-probabilities are compared


class Palmscale:
    """Engines of one model; `speculate`, `slots` and `positions` make another engine."""

    dtype = "float32"

    def __init__(self, weights):
        import jax

        from palmscale import PaLM
        from palmscale.infer.weights import decoding_form, form_on

        shape, arrays = read_weights(weights)
        params = {"embedding": arrays.pop("embedding"), "final_norm": arrays.pop("final_norm")}
        params = jax.tree.map(jax.numpy.asarray, params | {"layers": arrays})
        model = PaLM(**shape, dtype=self.dtype)
        self.model, self.variables = decoding_form(model, params, **form_on("cpu"))
        self.engines = {}

    def engine(self, slots=1, positions=256, speculate=0):
        from palmscale.infer.engine import Engine

        key = slots, positions, speculate
        if key not in self.engines:
            self.engines[key] = Engine(
                model=self.model,
                variables=self.variables,
                slots=slots,
                context_length=positions,
                speculate_tokens=speculate,
            )
        return self.engines[key]

    def request(self, ids, count, **fields):
        import numpy as np

        from palmscale.infer.request import Request
        from palmscale.infer.sampling import Sampling

        prompt = np.array(ids, np.int32)
        greedy = Sampling(temperature=0)
        return Request(prompt=prompt, max_tokens=count, sampling=greedy, **fields)

    def top(self, ids):
        request = self.request(ids, 1, top_log_probabilities=100)
        ((_, output),) = [o for o in self.engine().run([request]) if o[1].tokens]
        return dict(output.tokens[0].top)

    def decode(self, ids, count, **which):
        run = self.engine(**which).run([self.request(ids, count)])
        return [token.id for _, output in run for token in output.tokens]

    def batch(self, prompts, count, slots):
        """Greedy tokens of each prompt, so many at once."""
        tokens = [[] for _ in prompts]
        requests = (self.request(ids, count) for ids in prompts)
        for number, output in self.engine(slots).run(requests):
            tokens[number] += [token.id for token in output.tokens]
        return tokens

    def score(self, context, choice, positions):
        """The choice's log-probability after the context."""
        fields = {"score_from": max(1, len(context)), "top_log_probabilities": 0}
        request = self.request([*context, *choice], 0, **fields)
        scored = [o.prompt for _, o in self.engine(1, positions).run([request]) if o.prompt]
        return sum(token.log_probability for token in scored[0])


class PalmscaleBfloat16(Palmscale):
    """The same, of a checkpoint in bfloat16."""

    dtype = "bfloat16"


class Transformers:
    """Hugging Face transformers, with PaLM's block as Cohere2Moe of dense layers."""

    def __init__(self, weights):
        import torch
        from transformers import Cohere2MoeConfig, Cohere2MoeForCausalLM

        torch.set_num_threads(1)
        shape, arrays = read_weights(weights)
        N, D, positions = shape["depth"], shape["dim"], 4096
        config = Cohere2MoeConfig(
            vocab_size=shape["num_tokens"],
            hidden_size=D,
            intermediate_size=4 * D,
            prefix_dense_intermediate_size=4 * D,
            num_hidden_layers=N,
            num_attention_heads=shape["heads"],
            num_key_value_heads=1,
            head_dim=shape["dim_head"],
            rms_norm_eps=1e-6,
            logit_scale=D**-0.5,
            rope_theta=10000,
            mlp_layer_types=["dense"] * N,
            layer_types=["sliding_attention"] * N,
            sliding_window=positions,
            max_position_embeddings=positions,
            prefix_dense_sliding_window_pattern=1,
            num_experts=1,
            num_experts_per_tok=1,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=None,
        )
        self.torch, self.model = torch, Cohere2MoeForCausalLM(config).eval()
        names = {
            "embedding": "model.embed_tokens",
            "final_norm": "model.norm",
            "norm": "input_layernorm",
        } | {name: f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")}
        names |= {"attention_out": "self_attn.o_proj"}
        names |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
        state = {}
        for name, array in out_by_in(arrays).items():
            layer, _, last = name.rpartition(".")
            prefix = f"model.layers.{layer}." if layer else ""
            state[f"{prefix}{names[last]}.weight"] = torch.tensor(array)
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)

    def top(self, ids):
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([ids])).logits[0, -1]
        values, found = logits.double().log_softmax(-1).topk(TOP)
        return dict(zip(found.tolist(), values.tolist(), strict=True))

    def decode(self, ids, count):
        prompt = self.torch.tensor([ids])
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        with self.torch.no_grad():
            found = self.model.generate(
                prompt, attention_mask=self.torch.ones_like(prompt), eos_token_id=None, **options
            )
        return found[0, len(ids) :].tolist()


class LlamaCpp:
    """llama.cpp, by the package xllamacpp, with one thread."""

    def __init__(self, weights):
        import xllamacpp

        shape, arrays = read_weights(weights)
        path = pathlib.Path(weights).with_suffix(".gguf")
        write_gguf(path, shape, arrays)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 512, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_prompt = False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)

    def _complete(self, ids, count, **fields):
        asked = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True}
        answer = self.server.handle_completions(asked | {"cache_prompt": False} | fields)
        return answer["choices"][0]

    def top(self, ids):
        (first,) = self._complete(ids, 1, n_probs=TOP)["logprobs"]["content"]
        return {entry["id"]: entry["logprob"] for entry in first["top_logprobs"]}

    def decode(self, ids, count):
        # The vocabulary that write_gguf makes names each id.
        return [int(word) for word in re.findall(r"w(\d+)", self._complete(ids, count)["text"])]


class PalmPytorch:
    """lucidrains' PaLM-pytorch of the same shape, which computes all of the text for each token."""

    def __init__(self, weights):
        import torch
        from palm_pytorch import PaLM

        torch.set_num_threads(1)
        shape, _ = read_weights(weights)
        self.torch, self.model = torch, PaLM(**shape).eval()

    def decode(self, ids, count):
        ids = list(ids)
        with self.torch.no_grad():
            for _ in range(count):
                ids.append(int(self.model(self.torch.tensor([ids]))[0, -1].argmax()))
        return ids[-count:]


ENGINES = {
    "palmscale": Palmscale,
    "palmscale_bf16": PalmscaleBfloat16,
    "transformers": Transformers,
    "xllamacpp": LlamaCpp,
    "palm_pytorch": PalmPytorch,
}


def read_weights(path):
    """The shape, by PaLM's fields, and the arrays, which are stacked over layers."""
    import numpy as np

    with np.load(path) as stored:
        arrays = dict(stored)
    return json.loads(str(arrays.pop("shape"))), arrays


def out_by_in(arrays):
    """Arrays by `layer.name`, as other engines have them: [out, in], with interleaved rotations."""
    import numpy as np

    found = {"embedding": arrays["embedding"], "final_norm": 1 + arrays["final_norm"]}
    for n in range(len(arrays["norm"])):
        layer = {name: a[n] for name, a in arrays.items() if name not in found}
        K = layer["key"].shape[-1]
        order = np.arange(K).reshape(2, K // 2).T.reshape(-1)  # 2j is old j, 2j + 1 old j + K/2
        layer["query"], layer["key"] = layer["query"][..., order], layer["key"][..., order]
        for name, array in layer.items():
            if name == "norm":
                array = 1 + array
            elif name == "attention_out":
                array = array.reshape(-1, array.shape[-1]).T
            else:
                array = array.reshape(len(array), -1).T
            found[f"{n}.{name}"] = np.ascontiguousarray(array)
    return found


def write_gguf(path, shape, arrays):
    """Writes the model as llama.cpp's cohere2moe with dense layers only."""
    import gguf

    N, D, K = shape["depth"], shape["dim"], shape["dim_head"]
    writer = gguf.GGUFWriter(path, "cohere2moe")
    for name, value in {
        "context_length": 4096,
        "embedding_length": D,
        "block_count": N,
        "feed_forward_length": 4 * D,
        "attention.head_count": shape["heads"],
        "attention.head_count_kv": 1,
        "attention.key_length": K,
        "attention.value_length": K,
        "rope.dimension_count": K,
        "vocab_size": shape["num_tokens"],
        "leading_dense_block_count": N,
        "expert_count": 1,
        "expert_used_count": 1,
        "expert_feed_forward_length": 4 * D,
        "attention.sliding_window": 4096,
    }.items():
        writer.add_uint32(f"cohere2moe.{name}", value)
    for name, value in {
        "rope.freq_base": 10000.0,
        "logit_scale": D**-0.5,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }.items():
        writer.add_float32(f"cohere2moe.{name}", value)
    writer.add_array("cohere2moe.attention.sliding_window_pattern", [True] * N)
    writer.add_tokenizer_model("llama")
    words = [b"<s>", b"</s>", b"<unk>", *(b"<0x%02X>" % byte for byte in range(256))]
    words += [b"w%d" % n for n in range(len(words), shape["num_tokens"])]
    kinds = [3, 3, 2, *[6] * 256, *[1] * (len(words) - 259)]
    writer.add_token_list(words)
    writer.add_token_scores([-float(n) for n in range(len(words))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {
        "embedding": "token_embd",
        "final_norm": "output_norm",
        "norm": "attn_norm",
        "query": "attn_q",
        "key": "attn_k",
        "value": "attn_v",
        "attention_out": "attn_output",
        "gate": "ffn_gate",
        "up": "ffn_up",
        "down": "ffn_down",
    }
    for name, array in out_by_in(arrays).items():
        layer, _, last = name.rpartition(".")
        writer.add_tensor(f"{f'blk.{layer}.' if layer else ''}{names[last]}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    engine, weights, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})  # before threads are made
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what engines print is no answer
    contestant = ENGINES[engine](weights)
    print(json.dumps({"ready": engine}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        before = time.process_time()
        found = getattr(contestant, asked.pop("do"))(**asked)
        seconds = time.process_time() - before
        assert not isinstance(found, float) or math.isfinite(found)
        print(json.dumps({"found": found, "cpu_seconds": seconds}), file=answers)


if __name__ == "__main__":
    main()
