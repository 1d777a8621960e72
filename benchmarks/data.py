"""How fast rows are built and read, beside SeqIO's own pipeline and Hugging Face `datasets`.

    python benchmarks/data.py [--megabytes=50] [--rounds=3] [--write]

All work on the same text, sources of Python packages in The Pile's format, in one run and in turn.
Each way has a process of its own, so palmscale's have no TensorFlow loaded, as a training host has
none. Rates are by CPU-second of the process and its children, which other load on the machine
leaves alone; `benchmarks/README.md` has the method.
"""

import argparse
import contextlib
import functools
import io
import itertools
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
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import page
import zstandard

from palmscale.data.build.builder import build_cache
from palmscale.data.build.processes import LocalProcesses
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Pile
from palmscale.data.stream import BatchSchedule, RowStream, Shuffled
from palmscale.data.vocab.sentencepiece_model import train_model
from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary

LENGTH = 2048
FILES = 8

Way = Callable[[], int]  # does some work, and returns how much
Rates = dict[str, list[float]]  # of each way, in each round


class Wide(ByteVocabulary):
    """Bytes, as if there were more ids than two bytes hold."""

    size = 256_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    page.add_write(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pile(folder / "small", args.megabytes)
        print(f"{args.megabytes} MB of Python sources in {FILES} files, {LENGTH} tokens a row\n")
        result = {"rounds": args.rounds, "tokens": compare_building(folder, args.rounds)}
        result |= compare_reading(folder, args.rounds)
        result["seek_ms"] = measure_seek(folder)
        result["peak_bytes"] = compare_memory(folder, args.megabytes)
    if args.write:
        page.store("data", result)


def compare_building(folder: Path, rounds: int) -> Rates:
    """Prints and returns tokens a CPU-second of each way from text to tokens."""
    texts = list(itertools.islice(texts_of(folder / "small"), 300))
    model = folder / "pieces.model"
    model.write_bytes(train_model(texts, size=8000, model_type="bpe"))
    pieces, small = SentencePieceVocabulary(str(model)), folder / "small"
    own = "palmscale, bytes: read, shuffle, pack, write, digest"
    ways: dict[str, Way] = {
        own: partial(built, folder, ByteVocabulary(), 1),
        "palmscale, SentencePiece (8,000 pieces), 1 process": partial(built, folder, pieces, 1),
        "palmscale, SentencePiece, 2 processes": partial(built, folder, pieces, 2),
        "the sentencepiece package alone, 1 thread": partial(sentencepiece_alone, model, small),
        "Hugging Face `datasets`, bytes in order, nothing written": partial(datasets_bytes, small),
        "SeqIO, bytes, rebatched, nothing written": partial(seqio_bytes, small),
    }
    return print_rates("tokens", ways, rounds)


def compare_reading(folder: Path, rounds: int) -> dict[str, Any]:
    """Prints and returns rows a CPU-second, read at random in batches of 16, and what is needed.

    Each checksum is verified.
    """
    ways: dict[str, Way] = {}
    for title, vocabulary in (("uint16", ByteVocabulary()), ("uint32", Wide())):
        build(folder / title, folder / "small", vocabulary, 2)
        ways[f"palmscale, {title}, each checksum verified"] = partial(read_rows, folder / title)
    write_arrow(folder)
    theirs = "Hugging Face `datasets`, Arrow in memory, nothing verified"
    ways[theirs] = partial(datasets_rows, folder)
    rates = print_rates("rows", ways, rounds)
    consumer = next(iter(rates))
    consumed = print_consumption(statistics.median(rates[consumer]))
    return {"rows": rates, "consumer": consumer, "consumed": consumed}


def print_consumption(rows_per_second: float) -> dict[str, float]:
    """Prints and returns what a host of each recipe consumes at most.

    Prints how many times that a core reads, too.

    PaLM 540B: a step of 2,048 rows over 6,144 chips, four a host, at the paper's 238.3 thousand
    tokens a second (PaLM, sections 4 and 5). The others: 6 FLOPs a parameter and token at the whole
    peak of a host, four TPU v4 of 275 TFLOP/s or eight H100 of 989, which no run reaches.
    """
    tpu, gpu, paper = 4 * 275e12, 8 * 989e12, 238_300 / (6144 / 4) / LENGTH
    consumed = {
        "PaLM 540B at the paper's 238.3 thousand tokens per second, 1,536 hosts": paper,
        "PaLM 62B, four TPU v4 per host, at 100% of peak": tpu / (6 * 62.5e9) / LENGTH,
        "PaLM 8B, four TPU v4 per host, at 100% of peak": tpu / (6 * 8.63e9) / LENGTH,
        "`gpu_1b`, eight H100, at 100% of peak": gpu / (6 * 1.0e9) / LENGTH,
    }
    print(f"{'rows of 2,048 a second and host':<74}{'consumed':>14}{'one core reads':>18}")
    for name, rows in consumed.items():
        print(f"{name:<74}{rows:>14,.3f}{rows_per_second / rows:>12,.0f} times")
    print()
    return consumed


def measure_seek(folder: Path) -> float:
    """Prints and returns the milliseconds of a cold reader for the batch of step one million."""
    start = time.perf_counter()
    split = RowCache.open(folder / "uint16").split("train")
    stream = RowStream(rows=Shuffled(split, seed=0), schedule=BatchSchedule(((0, 16), (1000, 32))))
    rows = stream.read(stream.batch_rows(stream.cursor(1_000_000)))["target"]
    milliseconds = 1e3 * (time.perf_counter() - start)
    print(f"{len(rows)} rows of step 1,000,000 in {milliseconds:.1f} ms\n")
    return milliseconds


def compare_memory(folder: Path, megabytes: int) -> dict[str, int]:
    """Prints and returns the peak resident memory of a build, and of one of ten times the text."""
    peaks = {}
    for size in (megabytes, 10 * megabytes):
        source = folder / f"{size}"
        write_pile(source, size)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_of_build, (source, folder / f"memory{size}"))
        print(f"peak memory, {size} MB of text, 1 process: {peak / 1e6:,.0f} MB")
        peaks[str(size)] = peak
    return peaks


def peak_of_build(source: Path, target: Path) -> int:
    build(target, source, ByteVocabulary(), 1)
    # Not getrusage's: that counts what this process was before it was itself, a fork of its parent.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024


def print_rates(what: str, ways: dict[str, Way], rounds: int) -> Rates:
    """Prints and returns what each way does a CPU-second in each round, all in turn.

    Each has a process of its own, where it is warmed up once: those of palmscale have no TensorFlow
    loaded, whose threads take time of their own, as a training host has none.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        workers = {
            name: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for name in ways
        }
        for turn in range(rounds + 1):
            for name, way in ways.items():
                rate, has_tensorflow = workers[name].submit(timed, way).result()
                assert not (has_tensorflow and "palmscale" in name), f"{name} loads TensorFlow"
                rates[name] += [rate] if turn else []
    print(f"{what + ' a CPU-second':<74}{'median':>14}{'least':>14}{'most':>14}")
    for name, found in rates.items():
        cells = (statistics.median(found), min(found), max(found))
        print(f"{name:<74}" + "".join(f"{cell:>14,.0f}" for cell in cells))
    print()
    return rates


def timed(way: Way) -> tuple[float, bool]:
    """Returns what `way` does a CPU-second, and whether TensorFlow is loaded in this process."""
    before = cpu_seconds()
    done = way()
    return done / (cpu_seconds() - before), "tensorflow" in sys.modules


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
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


@functools.cache
def opened(folder: Path) -> RowCache:
    return RowCache.open(folder)


def read_rows(folder: Path, batches: int = 4000) -> int:
    split = opened(folder).split("train")
    stream = RowStream(rows=Shuffled(split, seed=0), schedule=BatchSchedule(((0, 16),)))
    for step in range(batches):
        stream.read(stream.batch_rows(stream.cursor(step)))
    return 16 * batches


@functools.cache
def some_texts(folder: Path) -> list[str]:
    return list(itertools.islice(texts_of(folder), 2000))


def sentencepiece_alone(model: Path, folder: Path) -> int:
    import sentencepiece

    texts = some_texts(folder)
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


def write_arrow(folder: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    split = RowCache.open(folder / "uint16").split("train")
    rows = split.read(np.arange(min(split.num_rows, 8000)))["target"].astype(np.uint16)
    datasets.Dataset.from_dict({"row": list(rows)}).save_to_disk(str(folder / "arrow"))


def datasets_rows(folder: Path) -> int:
    import datasets

    data = datasets.load_from_disk(str(folder / "arrow")).with_format("numpy")
    order = np.random.default_rng(0).permutation(len(data))
    for start in range(0, len(order) // 16 * 16, 16):
        data[order[start : start + 16].tolist()]["row"]
    return len(order) // 16 * 16


def seqio_bytes(folder: Path) -> int:
    import seqio
    import tensorflow as tf

    name = "benchmark_bytes"
    if name not in seqio.TaskRegistry.names():
        from palmscale.data.sources.seqio_data_source import data_source

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
