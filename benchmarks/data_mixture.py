"""Three kinds of corpora build into one mixture, and a small model trains on it.

    python benchmarks/data_mixture.py [--megabytes=50] [--steps=40] [--write]

Half of the text, sources of Python packages, is in The Pile's format, three tenths are a folder of
Parquet that Hugging Face `datasets` reads, the rest a directory of text. Printed are each build's
rates and, of the training, how much of the time a step waits for its input.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import page
from data import cpu_seconds, write_pile

from palmscale.data.build.processes import LocalProcesses
from palmscale.data.cache import find_or_build
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.data.sources.jsonl_parquet import Pile
from palmscale.data.sources.source import TextSource
from palmscale.data.sources.text_files import TextFiles
from palmscale.data.vocabulary import ByteVocabulary

LENGTH = 256
CHECKOUT = Path(__file__).parents[1]
GIN = """\
include 'configs/runs/quickstart.gin'

Data.corpus = None
Data.components = (@pile/Component(), @hub/Component(), @text/Component())
Component.corpus = @Corpus()
pile/Component.name = 'pile'
pile/Component.weight = 5
pile/Corpus.source = @Pile()
Pile.files = '{folder}/pile/*.jsonl.zst'
hub/Component.name = 'hub'
hub/Component.weight = 3
hub/Corpus.source = @HuggingFace()
HuggingFace.dataset = '{folder}/parquet'
text/Component.name = 'text'
text/Component.weight = 2
text/Corpus.source = @TextFiles()
TextFiles.files = '{folder}/text/*.txt'
"""


_TITLES = {
    "pile": "The Pile's format, zstd",
    "hub": "a Parquet folder by `datasets`",
    "text": "text files",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--steps", type=int, default=40)
    page.add_write(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_HOME"] = str(folder / "hf")
        write_pile(folder / "pile", args.megabytes // 2)
        write_parquet(folder / "parquet", args.megabytes * 3 // 10)
        write_text(folder / "text", args.megabytes // 5)
        result = {"sources": build_each(folder)} | train(folder, args.steps)
    if args.write:
        page.store("data_mixture", result)


def write_parquet(folder: Path, megabytes: int) -> None:
    from pyarrow import Table, parquet

    folder.mkdir()
    texts = list(python_texts(megabytes))
    for number in range(4):
        table = Table.from_pydict({"text": texts[number::4]})
        parquet.write_table(table, folder / f"{number}.parquet")


def write_text(folder: Path, megabytes: int) -> None:
    folder.mkdir()
    for number, text in enumerate(python_texts(megabytes)):
        (folder / f"{number:05}.txt").write_text(text)


def python_texts(megabytes: int) -> Iterator[str]:
    """Yields so much of the sources of the packages that are installed."""
    left = megabytes * 1_000_000
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        with contextlib.suppress(UnicodeDecodeError):
            if left > 0 and (text := path.read_text()):
                left -= len(text)
                yield text


def build_each(folder: Path) -> list[dict[str, Any]]:
    """Prints and returns what each build does, in one process without TensorFlow, warmed up."""
    sources = {
        "pile": Pile(files=f"{folder}/pile/*.jsonl.zst"),
        "hub": HuggingFace(dataset=f"{folder}/parquet"),
        "text": TextFiles(files=f"{folder}/text/*.txt"),
    }
    headings = ("documents", "MB", "rows", "seconds", "MB/CPU-second")
    results = []
    print(f"{'source':<10}" + "".join(f"{heading:>16}" for heading in headings))
    for name, source in sources.items():
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(built, source, folder / "caches").result()
        print(f"{name:<10}" + "".join(f"{value:>16,.1f}" for value in found))
        documents, _, rows, seconds, rate = found
        results.append(
            {
                "name": _TITLES[name],
                "documents": documents,
                "rows": rows,
                "seconds": seconds,
                "megabytes_per_cpu_second": rate,
            }
        )
    print()
    return results


def built(source: TextSource, caches: Path) -> tuple[float, ...]:
    """Returns documents, megabytes, rows, seconds, and megabytes a CPU-second."""

    def build(directory: Path) -> RowCache:
        return find_or_build(
            corpus=Corpus(source=source, held_out_fraction=0.05),
            vocabulary=ByteVocabulary(),
            sequence_length=LENGTH,
            seed=0,
            cache_directory=directory,
            executor=LocalProcesses(1),
        )

    build(caches.with_name("warm"))  # imports, and what `datasets` prepares once
    start, before = time.perf_counter(), cpu_seconds()
    cache = build(caches)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - before
    splits = [cache.split(name) for name in cache.manifest["splits"]]
    megabytes = sum(split.utf8_bytes for split in splits) / 1e6
    documents, rows = sum(s.documents for s in splits), sum(s.num_rows for s in splits)
    return documents, megabytes, rows, seconds, megabytes / cpu


def train(folder: Path, steps: int) -> dict[str, Any]:
    """Trains the quickstart's model by the command line; prints and returns how it goes."""
    (folder / "mixture.gin").write_text(GIN.format(folder=folder))
    command = [
        *(sys.executable, "-m", "palmscale", "train"),
        *(f"--gin_file={folder}/mixture.gin", f"--workdir={folder}/run"),
        f"--gin.CACHE_DIRECTORY={folder}/caches",
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.SAMPLE_PROMPT=None",
    ]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert "Building" not in done.stderr, "the caches are those that were just built"
    lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    waits = [line["input_wait_fraction"] for line in lines if "input_wait_fraction" in line]
    print(f"loss {lines[0]['loss']:.3f} -> {lines[-1]['loss']:.3f} in {len(lines)} steps")
    print("share of the time that waits for input:", ", ".join(f"{wait:.2%}" for wait in waits))
    epochs = {name: f"{value:.4f}" for line in lines for name, value in line.items()
              if name.startswith("epochs/")}  # fmt: skip
    print("at the last report:", epochs)
    ends = [lines[0]["loss"], lines[-1]["loss"]]
    return {"steps": steps, "losses": ends, "input_waits": waits}


if __name__ == "__main__":
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)
    main()
