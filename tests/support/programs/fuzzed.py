"""Thousands of mistakes on the command line, each a mutation of what is right: a line, no fault.

`python tests/support/programs/fuzzed.py KIND FIRST COUNT` tries the seeds from FIRST on, and prints
each command that ended in anything but success or one line and the exit code of a user's mistake.
"""

import contextlib
import functools
import gzip
import io
import json
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile

import tiny_sentencepiece
import zstandard

from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.observe import log
from palmscale.plan.report import state

CONFIGS = load.ROOT / "configs"
GIN_FILES = (
    *("runs/quickstart.gin", "runs/pretrain.gin", "models/palm_cpu_1m.gin", "data/corpus.gin"),
    *("optim/palm_adafactor.gin", "meshes/simulated_4x2.gin", "meshes/mesh.gin"),
)
TEXTS = ["alpha beta\n" * 20, "γάμμα δέλτα\n" * 15, "def f(x):\n    return x\n" * 12]
DONE, MISTAKE, DOES_NOT_FIT = 0, 2, 3
SECONDS = 120  # that one command may take on a busy machine

ODD = (
    *("", " ", "\n", "\t", "\f", "\v", "\r", "\0", "\x1c", "\x85", "\u2028", "\ufeff", "\xa0"),
    *("é", "日本", "\ud800", "\udcff", "\x1b[2J", "\\", "\\\n", "'", '"', "'''", "#", "@", "%"),
    *("(", ")", "[", "]", "{", "}", ",", ":", "=", "/", "//", ".", "..", "~", "~x", "-", "--", "*"),
    *("0", "-1", "1", "0.5", "-0.0", "1e-400", "1e400", "nan", "inf", "-inf", "1j", "0x1f", "1_0"),
    *(str(2**31), str(2**32), str(2**63), str(10**30), "9" * 5000, "[" * 500, "{1:" * 99),
    *("True", "False", "None", "()", "(0, 1)", "((0, 0),)", "((0, -8),)", "{'a': 1}", "b'x'"),
    *("@PaLM()", "@PaLM", "@one_of()", "%SEED", "%gin.REQUIRED", "@a/b/PaLM()", "@Run()"),
    *("import", "from", "include", "import os", "import no.such", "include 'x'", "as", "PaLM"),
    *("a\\0b", "x" * 5000, "gs://", "gs://b", "s3://b/x", "file:///", "/", "/proc/self/mem"),
    *("/dev/null", "**", "[a", "latest", "best", "all", "v4:0x4x4", "--gin.X", "--help", "=x"),
)


class Hang(BaseException):
    """A command took longer than `SECONDS`."""


def mutated(text, chance):
    """The text with one to three odd things in it."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        tokens = re.findall(r"\w+|\s+|.", text, re.DOTALL) or [""]
        at = chance.randrange(len(tokens))
        match chance.randrange(7):
            case 0 | 1:
                tokens[at] = chance.choice(ODD)
            case 2:
                tokens.insert(at, chance.choice(ODD))
            case 3:
                del tokens[at : at + chance.choice((1, 1, 5))]
            case 4:
                tokens[at] = chance.choice(tokens)
            case 5:
                tokens[at:at] = tokens[at : at + chance.choice((2, 9, 30))]
            case 6:
                del tokens[at:]
        text = "".join(tokens)
    return text


def mutated_bytes(raw, chance):
    """The bytes with one to three changes."""
    raw = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(5):
            case 0:
                raw[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                raw[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
            case 2:
                del raw[at : at + chance.choice((1, 8, 200))]
            case 3:
                del raw[at:]
            case 4:
                odd = chance.choice(ODD).encode(errors="surrogatepass")[:50]
                raw[at : at + len(odd)] = odd
    return bytes(raw)


def gin_file(folder, chance):
    """A command line that reads a mutation of one of the quickstart's gin files."""
    shutil.rmtree(folder / "configs", ignore_errors=True)
    name = chance.choice(GIN_FILES)
    path = folder / "configs" / name
    path.parent.mkdir(parents=True)
    text = mutated((CONFIGS / name).read_text(), chance)
    path.write_bytes(text.encode(errors="surrogatepass"))
    return ["explain", "--gin_file=configs/runs/quickstart.gin"]


def settings(folder, chance):
    """A command line that sets macros and parameters of the quickstart to odd values."""
    text = "\n".join((CONFIGS / name).read_text() for name in GIN_FILES)
    names = re.findall(r"^([A-Za-z_.]+) = (.*)$", text, re.MULTILINE)
    flags = ["explain", "--gin_file=configs/runs/quickstart.gin"]
    for _ in range(chance.choice((1, 1, 2))):
        name, value = chance.choice(names)
        value = chance.choice((chance.choice(ODD), mutated(value, chance)))
        flags.append(f"--gin.{chance.choice((name, name, name, mutated(name, chance)))}={value}")
    return flags


def data_file(folder, chance):
    """A command line that builds rows of a text file with damaged bytes."""
    name = chance.choice(("a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    whole = {
        "a.txt": "".join(TEXTS).encode(),
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, mtime=0),
        "a.jsonl.zst": zstandard.compress(lines),
        "a.parquet": _parquet(),
    }[name]
    (folder / name).write_bytes(mutated_bytes(whole, chance))
    kind = {"a.txt": "TEXT_FILES", "a.parquet": "PARQUET_FILES"}.get(name, "JSONL_FILES")
    skip = chance.choice(("fail", "skip"))
    shutil.rmtree(folder / "rows", ignore_errors=True)
    return [
        *("data", "build", "--gin_file=configs/runs/quickstart.gin", "--processes=1"),
        *(f"--gin.{kind}={folder / name}", f"--gin.ON_BAD_DOCUMENT={skip}"),
        *("--gin.SEQUENCE_LENGTH=16", f"--gin.CACHE_DIRECTORY={folder / 'rows'}"),
    ]


@functools.cache
def _parquet():
    import pyarrow
    import pyarrow.parquet

    raw = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), raw)
    return raw.getvalue()


def row_cache(folder, chance):
    """A command line that reads a row cache, of which one file is damaged."""
    whole, cache = folder / "whole", folder / "cache"
    if not whole.exists():
        (folder / "b.txt").write_text("".join(TEXTS))
        flags = [f"--gin.TEXT_FILES={folder / 'b.txt'}", "--gin.HELD_OUT_FRACTION=0"]
        flags += ["--gin.SEQUENCE_LENGTH=16", f"--gin.CACHE_DIRECTORY={folder / 'made'}"]
        code, *_ = answer(["data", "build", "--gin_file=configs/runs/quickstart.gin", *flags])
        assert code == DONE, "rows of a plain text"
        shutil.copytree(next((folder / "made").glob("textfiles-*")), whole)
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(whole, cache)
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    chosen = chance.choice((*files, cache / "manifest.json", cache / "manifest.json"))
    chosen.write_bytes(mutated_bytes(chosen.read_bytes(), chance))
    return ["data", chance.choice(("show", "verify")), str(cache)]


def vocabulary(folder, chance):
    """A command line that checks a SentencePiece model with damaged bytes."""
    whole = folder / "whole.model"
    if not whole.exists():
        tiny_sentencepiece.train(whole)
        (folder / "b.txt").write_text("".join(TEXTS))
    (folder / "a.model").write_bytes(mutated_bytes(whole.read_bytes(), chance))
    return [
        *("vocab", "check", str(folder / "a.model"), "--gin_file=configs/data/text.gin"),
        f"--gin.TEXT_FILES={folder / 'b.txt'}",
    ]


COMMAND_LINES = (
    "train --gin_file=configs/runs/quickstart.gin --workdir=runs/x --gin.TRAIN_STEPS=3",
    "verify-resume --gin_file=a.gin --workdir=x --steps=3 --resume_with=DATA=2",
    "eval --workdir=runs/x --checkpoint=latest --coordinator=a:1 --num_processes=2 --process_id=1",
    "plan --gin_file=configs/recipes/palm_8b_v4_64.gin --topology=v4:4x4x4 --slices=2 --batch=all",
    "explain --gin_file=configs/runs/quickstart.gin --compiled --topology=v5e-256",
    "generate --workdir=runs/x --prompt=a --max_tokens=3 --temperature=0.5 --top_k=3 --seed=1",
    "generate --workdir=runs/x --prompt_file=p --num_samples=2 --top_p=0.9 --greedy",
    "checkpoint show --workdir=runs/x --checkpoint=best --config",
    "checkpoint diff runs/x@1 runs/y@latest",
    "checkpoint verify --workdir=runs/x --checkpoint=3",
    "data show cache --rows=2 --split=train --picture=a.png",
    "data build --gin_file=a.gin --processes=2 --beam=x",
    "vocab train --size=300 --out=a.model --model_type=bpe --max_bytes=100 --seed=3",
    "vocab check a.model",
    "env --no_devices",
)


def command_line(folder, chance):
    """A mutation of a command line; of a command that does something, the arguments are read."""
    arguments = chance.choice(COMMAND_LINES).split()
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(arguments))
        match chance.randrange(5):
            case 0 | 1:
                flag, equals, _ = arguments[at].partition("=")
                arguments[at] = f"{flag}{equals}{chance.choice(ODD)}"
            case 2:
                arguments[at] = mutated(arguments[at], chance)
            case 3:
                arguments.insert(at, chance.choice(ODD))
            case 4:
                del arguments[at]
        arguments = arguments or [""]
    return arguments


KINDS = (gin_file, settings, command_line, data_file, row_cache, vocabulary)


def answer(arguments):
    """Exit code, standard output and standard error of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    log.console.file = err
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.run(arguments)
        except SystemExit as exit:  # --help and --version
            code = exit.code or DONE
    return code, out.getvalue(), err.getvalue()


def fault(kind, seed, folder):
    """What is wrong with the answer to one mutation, or None."""

    def stop(*_):
        raise Hang

    arguments = kind(folder, random.Random(f"{kind.__name__} {seed}"))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        code, _, err = answer(arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {error}: {arguments}"
    finally:
        signal.alarm(0)
    lines = err.split("\n")
    if code == DONE or (code == DOES_NOT_FIT and arguments[0] == "plan"):
        return None
    if code != MISTAKE or not lines[-2].startswith("palmscale: error: ") or lines[-1]:
        return f"exit code {code}: {err[-400:]!r}: {arguments}"
    return f"raw controls: {lines[-2]!r}: {arguments}" if not lines[-2].isprintable() else None


@contextlib.contextmanager
def cheap_commands():
    """What takes long is left out: commands are parsed alone, and each layout is traced once."""
    function, of, kept = main.parse, state.StateLayout.of, {}

    def parse(parser, arguments):
        args = function(parser, arguments)
        if args.function.__name__ not in ("explain", "build", "verify", "show", "ls", "check"):
            args.function = lambda args: None
        if args.function.__name__ == "explain":
            args.compiled = False
        return args

    def traced_once(run, sizes):
        key = repr((run.model, run.optimizer, run.layout, sizes))
        if key not in kept:
            kept[key] = of(run, sizes)
        return kept[key]

    main.parse, state.StateLayout.of = parse, traced_once
    try:
        yield
    finally:
        main.parse, state.StateLayout.of = function, of


def faults(kind, seeds):
    """Yields what is wrong with the answers to the mutations of these seeds."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name), cheap_commands():
        for seed in seeds:
            if wrong := fault(kind, seed, pathlib.Path(name)):
                yield f"{kind.__name__} {seed}: {wrong}"


def report(name, first, count):
    """Prints what is wrong, and how much of it there is."""
    kind, found = next(kind for kind in KINDS if kind.__name__ == name), 0
    for wrong in faults(kind, range(first, first + count)):
        found += 1
        print(wrong, flush=True)
    print(f"{name}: {count} mutations, {found} faults", flush=True)


if __name__ == "__main__":
    report(sys.argv[1], *map(int, sys.argv[2:]))
