"""CPU-seconds per token of palmscale's engine and of others, of one model, on one core.

    python benchmarks/generate.py --transformers=PYTHON --xllamacpp=PYTHON --palm_pytorch=PYTHON

See README.md beside this file for what is measured. Each PYTHON is that of an environment which has
the package; a package without one is left out.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import page

SHAPE = dict(num_tokens=32000, dim=768, depth=12, heads=6, dim_head=128)
WORKER = pathlib.Path(__file__).with_name("generate_contestants.py")
TOLERANCE = 1e-4  # of a log-probability
PROMPT, LONG_PROMPT, POSITIONS = 32, 1984, 2048
NAMES = {
    "palmscale": "palmscale, float32",
    "palmscale_bf16": "palmscale, a bfloat16 checkpoint",
    "transformers": "transformers, 1 thread",
    "xllamacpp": "llama.cpp, 1 thread",
    "palm_pytorch": "PaLM-pytorch, 1 thread",
}


class Contestant:
    """A process with an engine; `ask` returns what it found and its CPU-seconds."""

    def __init__(self, name, python, weights, core):
        self.name, self.per_token = name, []
        command = [python, str(WORKER), name, str(weights), str(core)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True
        )
        self._answer()

    def ask(self, do, **asked):
        """Asks the engine to do something, and waits."""
        self.process.stdin.write(json.dumps({"do": do} | asked) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return answer["found"], answer["cpu_seconds"]

    def per_new_token(self, ids, count, **which):
        """CPU-seconds per token after the first, so without the prompt's, and the tokens."""
        self.ask("decode", ids=ids, count=1, **which)  # an engine may keep a prompt's cache
        _, first = self.ask("decode", ids=ids, count=1, **which)
        tokens, all_seconds = self.ask("decode", ids=ids, count=count, **which)
        return (all_seconds - first) / (count - 1), tokens

    def _answer(self):
        if not (line := self.process.stdout.readline()):
            sys.exit(f"generate.py: {self.name} has ended; see above")
        return json.loads(line)


def write_weights(path):
    """Writes random weights of the shape, as `init` draws them."""
    import jax

    from palmscale import PaLM
    from palmscale.partition.shardings import unbox

    tokens_BL = np.zeros((1, 1), np.int32)
    params = unbox(jax.jit(PaLM(**SHAPE).init)(jax.random.key(0), tokens_BL)["params"])
    arrays = params | params["layers"]
    del arrays["layers"]
    np.savez(path, shape=json.dumps(SHAPE), **arrays)
    return sum(array.size for array in arrays.values())


def compare(contestants, chance):
    """Checks that all give the same log-probabilities; returns each one's largest difference."""
    compared = [c for c in contestants if c.name != "palm_pytorch"]  # which has its own weights
    most = dict.fromkeys((NAMES[c.name] for c in compared), 0.0)
    for length in (5, PROMPT, 200):
        ids = [0, *chance.integers(259, SHAPE["num_tokens"], length - 1).tolist()]
        first = None
        for contestant in compared:
            top = contestant.ask("top", ids=ids)[0]
            first = first or top
            differences = [abs(top[i] - value) for i, value in first.items()]
            most[NAMES[contestant.name]] = max(most[NAMES[contestant.name]], *differences)
    assert max(most.values()) < TOLERANCE, f"log-probabilities differ: {most}"
    return most


def measure_rest(ours, chance, rounds, count):
    """What palmscale alone is asked: long texts, batches, choices, and texts that repeat."""
    draw = lambda n: [0, *chance.integers(259, SHAPE["num_tokens"], n - 1).tolist()]  # noqa: E731
    short, long = draw(PROMPT), draw(LONG_PROMPT)
    prompts = [draw(PROMPT) for _ in range(64)]
    context, choices = draw(257), [draw(16)[1:] + [300] for _ in range(rounds + 1)]
    found = {name: [] for name in ("early", "late", "one_by_one", "batched", "choice", "own")}
    found |= {"plain": [], "foreseen": []}
    deep = {"positions": POSITIONS}
    for measured in range(rounds + 1):  # the first compiles
        early, _ = ours.per_new_token(short, count, **deep)
        late, _ = ours.per_new_token(long, count, **deep)
        # A context that was not seen, its first choice, and a second one.
        context = draw(257)
        ours.ask("score", context=context, choice=choices[measured - 1], **deep)
        _, choice = ours.ask("score", context=context, choice=choices[measured], **deep)
        _, own = ours.ask("score", context=[0], choice=choices[measured], **deep)
        plain, tokens = ours.per_new_token(short, 4 * count)
        foreseen, same = ours.per_new_token(short, 4 * count, speculate=8)
        assert tokens == same
        if measured:
            for name, value in dict(
                early=early, late=late, choice=choice, own=own, plain=plain, foreseen=foreseen
            ).items():
                found[name].append(value)
    texts = {}
    for name, slots in (("one_by_one", 1), ("batched", 32)):
        ours.ask("batch", prompts=prompts[:slots], count=2, slots=slots)  # compiles
        texts[name], seconds = ours.ask("batch", prompts=prompts, count=count, slots=slots)
        found[name].append(seconds / (len(prompts) * count))
    assert texts["one_by_one"] == texts["batched"]
    return found


def report(result):
    """Prints a line for each engine, and the ratios."""
    print(f"largest differences of a log-probability: {result['differences']}")
    for engine in result["engines"]:
        seconds = engine["cpu_seconds_per_token"]
        print(f"{engine['name']:34} {statistics.median(seconds):.4f} CPU-s/token  {seconds}")
    for name, values in result["palmscale"].items():
        print(f"{name:34} {statistics.median(values):.4f} {values}")


def parse_arguments():
    """Returns the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("transformers", "xllamacpp", "palm_pytorch"):
        parser.add_argument(f"--{name}", metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--count", type=int, default=32, help="tokens per measurement, default 32")
    cores = os.sched_getaffinity(0)
    parser.add_argument("--core", type=int, default=max(cores), help="default: the last")
    page.add_write(parser)
    return parser.parse_args()


def main():
    args = parse_arguments()
    pythons = {"palmscale": sys.executable, "palmscale_bf16": sys.executable}
    pythons |= {name: getattr(args, name) for name in NAMES if getattr(args, name, None)}
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / "weights.npz"
        parameters = write_weights(weights)
        contestants = [Contestant(n, p, weights, args.core) for n, p in pythons.items()]
        differences = compare(contestants, chance)
        prompt = [0, *chance.integers(259, SHAPE["num_tokens"], PROMPT - 1).tolist()]
        for turn in range(args.rounds + 1):  # the first warms up
            texts = {}
            for i in range(len(contestants)):  # whoever comes first changes from round to round
                contestant = contestants[(turn + i) % len(contestants)]
                seconds, texts[contestant.name] = contestant.per_new_token(prompt, args.count)
                if turn:
                    contestant.per_token.append(seconds)
            texts.pop("palm_pytorch", None)
            assert len({tuple(text) for text in texts.values()}) == 1, texts
        result = {
            "parameters": parameters,
            "differences": differences,
            "engines": [
                {"name": NAMES[c.name], "cpu_seconds_per_token": c.per_token} for c in contestants
            ],
            "palmscale": measure_rest(contestants[0], chance, args.rounds, args.count),
        }
        for contestant in contestants:
            contestant.process.stdin.close()
            contestant.process.wait()
    report(result)
    if args.write:
        page.store("generate", result)


if __name__ == "__main__":
    main()
