"""What the quickstart reaches: its evaluation loss by tokens, beside compressors on the same text.

    python benchmarks/quickstart.py [--workdir=runs/quickstart] [--write]

Trains the quickstart to its end, or resumes it where the folder stands.
"""

import argparse
import gzip
import itertools
import lzma
import pathlib
from typing import Any

import numpy as np
import page

import palmscale
from palmscale.data.sources.source import TRAIN

GIN_FILE = "configs/runs/quickstart.gin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    page.add_write(parser)
    args = parser.parse_args()
    run = palmscale.load_run(GIN_FILE)
    palmscale.train(run, args.workdir)
    result = {"points": points(palmscale.history(args.workdir))}
    text = held_out_text(run.data.corpus)
    result["gzip_bits_per_byte"] = 8 * len(gzip.compress(text, 9)) / len(text)
    result["xz_bits_per_byte"] = 8 * len(lzma.compress(text)) / len(text)
    print(page.quickstart(page.circumstances() | result))
    if args.write:
        page.store("quickstart", result)


def points(history: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns tokens and loss of every second evaluation, and of the last."""
    tokens, bits = np.cumsum(history["tokens"]), history["eval_bits_per_byte"]
    at = np.flatnonzero(np.isfinite(bits))
    chosen = sorted({*at[::2].tolist(), int(at[-1])})
    return [{"tokens": int(tokens[step]), "bits_per_byte": float(bits[step])} for step in chosen]


def held_out_text(corpus: Any) -> bytes:
    """Returns the held-out documents, one after another."""
    shards = list(corpus.source.shards())
    split_of = corpus.split_of(shards)
    texts = itertools.chain.from_iterable(
        (
            document.text
            for number, document in enumerate(corpus.source.documents(shard))
            if split_of(shard, number) != TRAIN
        )
        for shard in shards
    )
    return "".join(texts).encode()


if __name__ == "__main__":
    main()
