"""How fast rows are built and read, beside SeqIO's own pipeline and Hugging Face `datasets`.

    python benchmarks/data.py [--megabytes=50] [--rounds=3]

All work on the same text, sources of Python packages in The Pile's format, in one run and in turn.
Rates are by CPU-second of this process and its children, which other load on the machine leaves
alone; `benchmarks/README.md` has the method.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zstandard

from palmscale.data.build import build_cache
from palmscale.data.processes import LocalProcesses
from palmscale.data.records import Pile
from palmscale.data.rows import RowCache
from palmscale.data.sources import Corpus
from palmscale.data.stream import BatchSchedule, RowStream, Shuffled
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.data.vocab_training import train as train_vocabulary

LENGTH = 2048
FILES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pile(folder / "small", args.megabytes)
        print(f"{args.megabytes} MB of Python sources in {FILES} files, {LENGTH} tokens a row\n")
        compare_building(folder, args.rounds)
        compare_reading(folder, args.rounds)
        measure_seek(folder)
        compare_memory(folder, args.megabytes)


def compare_building(folder: Path, rounds: int) -> None:
    """Prints tokens a CPU-second of each way from text to tokens."""
    texts = list(texts_of(folder / "small"))[:2000]
    model = folder / "pieces.model"
    model.write_bytes(train_vocabulary(texts[:300], size=8000, model_type="bpe"))
    pieces = SentencePieceVocabulary(str(model))
    ways: dict[str, Callable[[], int]] = {
        "palmscale, bytes": lambda: built(folder, ByteVocabulary(), 1),
        "palmscale, SentencePiece, 1 process": lambda: built(folder, pieces, 1),
        "palmscale, SentencePiece, 2 processes": lambda: built(folder, pieces, 2),
        "sentencepiece alone, 1 thread": lambda: sentencepiece_alone(model, texts),
        "datasets, bytes in batches": lambda: datasets_bytes(folder / "small"),
        "SeqIO, bytes, rebatched": lambda: seqio_bytes(folder / "small"),
    }
    print_rates("tokens", ways, rounds)


def compare_reading(folder: Path, rounds: int) -> None:
    """Prints rows a CPU-second, read at random in batches of 16, each checksum verified."""

    class Wide(ByteVocabulary):
        size = 256_000

    ways: dict[str, Callable[[], int]] = {}
    for title, vocabulary in (("uint16", ByteVocabulary()), ("uint32", Wide())):
        cache = build(folder / title, folder / "small", vocabulary, 2)
        ways[f"palmscale, {title}"] = lambda cache=cache: read_rows(cache)
    ways["datasets, arrow, uint16"] = datasets_reader(folder)
    print_rates("rows", ways, rounds)


def measure_seek(folder: Path) -> None:
    """Prints how long a cold reader takes to give the batch of step one million."""
    start = time.perf_counter()
    split = RowCache.open(folder / "uint16").split("train")
    stream = RowStream(rows=Shuffled(split, seed=0), schedule=BatchSchedule(((0, 16), (1000, 32))))
    rows = stream.read(stream.batch_rows(stream.cursor(1_000_000)))["target"]
    print(f"{len(rows)} rows of step 1,000,000 in {1e3 * (time.perf_counter() - start):.1f} ms\n")


def compare_memory(folder: Path, megabytes: int) -> None:
    """Prints the peak resident memory of a build, and of one of ten times the text."""
    for size in (megabytes, 10 * megabytes):
        source = folder / f"{size}"
        write_pile(source, size)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_of_build, (source, folder / f"memory{size}"))
        print(f"peak memory, {size} MB of text, 1 process: {peak / 1e6:,.0f} MB")


def peak_of_build(source: Path, target: Path) -> int:
    build(target, source, ByteVocabulary(), 1)
    # Not getrusage's: that counts what this process was before it was itself, a fork of its parent.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def print_rates(what: str, ways: dict[str, Callable[[], int]], rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before = cpu_seconds()
            done = way()
            rates[name].append(done / (cpu_seconds() - before))
    print(f"{what + ' a CPU-second':<42}{'median':>14}{'least':>14}{'most':>14}")
    for name, found in rates.items():
        cells = (statistics.median(found), min(found), max(found))
        print(f"{name:<42}" + "".join(f"{cell:>14,.0f}" for cell in cells))
    print()


def cpu_seconds() -> float:
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def write_pile(folder: Path, megabytes: int) -> None:
    """Writes FILES files of The Pile's format; where the sources end, they begin again, marked."""
    folder.mkdir(exist_ok=True)
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    paths = sorted(path for root in roots for path in root.rglob("*.py"))
    left, turn = megabytes * 1_000_000, 0
    streams = [open(folder / f"{i:02}.jsonl.zst", "wb") for i in range(FILES)]
    writers = [zstandard.ZstdCompressor().stream_writer(stream) for stream in streams]
    while left > 0:
        for number, path in enumerate(paths):
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            if text and left > 0:
                text = f"# {turn}\n{text}" if turn else text
                left -= len(text)
                record = {"text": text, "meta": {"pile_set_name": path.parent.name[:1]}}
                writers[number % FILES].write(json.dumps(record).encode() + b"\n")
        turn += 1
    for writer, stream in zip(writers, streams):
        writer.close()
        stream.close()


def texts_of(folder: Path) -> Iterator[str]:
    source = Pile(files=f"{folder}/*.jsonl.zst")
    for shard in source.shards():
        yield from (document.text for document in source.documents(shard))


def build(target: Path, source: Path, vocabulary: Vocabulary, processes: int) -> RowCache:
    return build_cache(
        corpus=Corpus(source=Pile(files=f"{source}/*.jsonl.zst"), held_out_fraction=0.0),
        vocabulary=vocabulary,
        directory=target,
        sequence_length=LENGTH,
        seed=0,
        executor=LocalProcesses(processes),
    )


def built(folder: Path, vocabulary: Vocabulary, processes: int) -> int:
    target = folder / f"built-{time.monotonic_ns()}"
    return build(target, folder / "small", vocabulary, processes).split("train").tokens


def read_rows(cache: RowCache, batches: int = 1000) -> int:
    split = cache.split("train")
    stream = RowStream(rows=Shuffled(split, seed=0), schedule=BatchSchedule(((0, 16),)))
    for step in range(batches):
        stream.read(stream.batch_rows(stream.cursor(step)))
    return 16 * batches


def sentencepiece_alone(model: Path, texts: list[str]) -> int:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return sum(len(processor.encode(text)) for text in texts)


def datasets_bytes(folder: Path) -> int:
    import datasets

    files = sorted(map(str, folder.glob("*.jsonl.zst")))
    data = datasets.load_dataset("json", data_files=files, streaming=True, split="train")
    held: list[np.ndarray] = []
    rows = tokens = 0
    for record in data:
        held.append(np.frombuffer(record["text"].encode(), np.uint8).astype(np.uint16) + 3)
        tokens += len(held[-1]) + 1
        if tokens > 1 << 22:
            rows += np.concatenate(held).size // LENGTH
            held, tokens = [], 0
    return rows * LENGTH


def datasets_reader(folder: Path) -> Callable[[], int]:
    import datasets

    datasets.disable_progress_bars()
    split = RowCache.open(folder / "uint16").split("train")
    rows = split.read(np.arange(min(split.num_rows, 8000)))["target"].astype(np.uint16)
    datasets.Dataset.from_dict({"row": list(rows)}).save_to_disk(str(folder / "arrow"))
    data = datasets.load_from_disk(str(folder / "arrow")).with_format("numpy")
    order = np.random.default_rng(0).permutation(len(data))

    def read() -> int:
        for start in range(0, len(order) // 16 * 16, 16):
            data[order[start : start + 16].tolist()]["row"]
        return len(order) // 16 * 16

    return read


def seqio_bytes(folder: Path) -> int:
    import seqio
    import tensorflow as tf

    name = "benchmark_bytes"
    if name not in seqio.TaskRegistry.names():
        from palmscale.data.tasks import data_source

        corpus = Corpus(source=Pile(files=f"{folder}/*.jsonl.zst"), held_out_fraction=0.0)
        seqio.TaskRegistry.add(
            name,
            source=data_source(corpus),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
        )
    task = seqio.TaskRegistry.get(name)
    documents = task.get_dataset(sequence_length=None, split="train", shuffle=False, num_epochs=1)
    tokens = documents.map(lambda example: tf.cast(example["targets"], tf.int32))
    rows = tokens.rebatch(LENGTH, drop_remainder=True)
    return sum(LENGTH for _ in rows.as_numpy_iterator())


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, line_buffering=True)
    main()
