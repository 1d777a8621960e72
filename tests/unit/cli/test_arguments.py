import importlib
import inspect

import pytest

from palmscale.cli.arguments import parse
from palmscale.errors import UserError

ANSWERED = [
    ("train --gin_file=a.gin", "training.train"),
    ("eval --workdir=w", "wiring.evaluate"),
    ("generate --workdir=w", "samples.generate"),
    ("explain --gin_file=a.gin", "plan.explain"),
    ("checkpoint ls --workdir=w", "checkpoints.ls"),
    ("checkpoint show --workdir=w", "checkpoints.show"),
    ("checkpoint verify --workdir=w", "checkpoints.verify"),
    ("checkpoint diff a b@7", "checkpoint_diff.diff"),
    ("checkpoint pin --workdir=w", "checkpoints.pin"),
    ("checkpoint unpin --workdir=w --checkpoint=7", "checkpoints.unpin"),
    ("data build --gin_file=a.gin", "rows.build"),
    ("data verify c", "rows.verify"),
    ("data show c", "show.show"),
    ("vocab train --size=300 --out=m", "vocabulary.train"),
    ("vocab check m", "vocabulary.check"),
]


@pytest.mark.parametrize(("line", "function"), ANSWERED)
def test_every_command_is_answered_by_a_function_that_takes_its_arguments(line, function):
    assert parse(line.split()).function == function
    module, _, name = function.partition(".")
    answer = getattr(importlib.import_module(f"palmscale.cli.{module}"), name)
    assert list(inspect.signature(answer).parameters) == ["args"]


def test_gin_flags_come_in_any_order():
    args = parse("train --gin.A=1 --gin_file=x/a.gin --gin.B='c=d' --gin_file b.gin".split())
    assert args.gin_file == ["x/a.gin", "b.gin"]
    assert args.gin_bindings == ["A=1", "B='c=d'"]
    assert args.workdir == "runs/b"


def test_generate_has_defaults():
    ours = ("parser", "function", "gin", "command", "debug")
    got = vars(parse(["generate", "--workdir=w"]))
    assert {name: value for name, value in got.items() if name not in ours} == {
        "workdir": "w",
        "checkpoint": "latest",
        "prompt": "",
        "prompt_file": None,
        "max_tokens": 256,
        "num_samples": 1,
        "temperature": 0.8,
        "top_k": None,
        "top_p": None,
        "greedy": False,
        "seed": 0,
        "gin_bindings": [],
        "coordinator": None,
        "num_processes": None,
        "process_id": None,
    }


@pytest.mark.parametrize(
    ("written", "value"), [("latest", "latest"), ("best", "best"), ("120", 120)]
)
@pytest.mark.parametrize("command", ["eval", "generate", "checkpoint show"])
def test_a_checkpoint_is_latest_best_or_a_step(command, written, value):
    args = parse([*command.split(), "--workdir=w", f"--checkpoint={written}"])
    assert args.checkpoint == value


def test_data_takes_a_cache_folder_or_gin_files():
    assert parse(["data", "show", "cache/x"]).cache == "cache/x"
    assert parse(["data", "verify", "--gin_file=a.gin"]).cache is None


def test_vocab_reads_a_corpus_alone_unless_gin_files_are_given():
    assert parse(["vocab", "check", "m"]).gin_file == ["configs/data/text.gin"]
    assert parse(["vocab", "check", "m", "--gin_file=a.gin"]).gin_file == ["a.gin"]
    args = parse("vocab train --size=256000 --out=m --gin.TEXT_FILES=*.txt".split())
    assert (args.size, args.model_type, args.max_bytes, args.seed) == (256_000, "bpe", 2 * 10**8, 0)
    assert args.gin_bindings == ["TEXT_FILES=*.txt"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "unknown command trian; did you mean train?"),
        ("checkpoint lss", "unknown command lss; did you mean ls?"),
        ("train --gin_fle=a", "unknown flag --gin_fle; did you mean --gin_file?"),
        ("generate --workdir=w --temprature=1", "did you mean --temperature?"),
        ("train", "no gin file; add --gin_file="),
        ("data verify", "no gin file"),
        ("data show c --gin_file=a.gin", "both a cache (c) and gin flags"),
        ("data show c --split=valid", "unknown --split=valid; did you mean validation?"),
        ("data show c --rows=0", "0 is out of range; give 1 or more"),
        ("train --gin_file=a.gin --gin.STEPS", "--gin.STEPS has no value; write --gin.STEPS=VALUE"),
        ("train --gin_file=a.gin more", "unexpected argument more"),
        ("generate --workdir=w --gin.A=1", "takes no --gin.A=1"),
        ("generate", "required: --workdir"),
        ("generate --workdir=w --prompt=a --prompt_file=b", "not allowed with"),
        ("generate --workdir=w --checkpoint=last", "give latest, best or a step number"),
        ("generate --workdir=w --max_tokens=0", "0 is out of range; give 1 or more"),
        ("generate --workdir=w --max_tokens=five", "five is not a number of type int"),
        ("generate --workdir=w --temperature=nan", "nan is out of range"),
        ("vocab train --size=400", "required: --out"),
        ("vocab train --out=m --size=299", "299 is out of range; give 300 to 256000"),
        ("vocab train --out=m --size=256001", "256001 is out of range; give 300 to 256000"),
        ("vocab train --out=m --size=400 --model_type=bp", "unknown --model_type=bp"),
        ("vocab chek m", "unknown command chek; did you mean check?"),
        ("vocab check", "required: MODEL"),
        ("generate --workdir=w --top_p=1.5", "1.5 is out of range"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(line, message):
    with pytest.raises(UserError) as raised:
        parse(line.split())
    assert message in str(raised.value) and "\n" not in str(raised.value)
