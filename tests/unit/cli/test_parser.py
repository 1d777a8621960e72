import argparse

import pytest

from palmscale.cli.parser import (
    Parser,
    add_checkpoint_choice,
    add_command,
    add_run_workdir,
    add_workdir,
    parse,
)
from palmscale.errors import UserError


def train(args):
    """Trains."""


def show(args):
    """Shows."""


@pytest.fixture
def parser():
    top = Parser(prog="tool")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    add_run_workdir(add_command(commands, "train", train, "Train.", gin=True))
    command = add_command(commands, "show", show, "Show.")
    command.add_argument("--rows")
    add_workdir(command)
    add_checkpoint_choice(command)
    return top


def test_a_command_knows_its_function_and_whether_it_reads_gin_files(parser):
    args = parse(parser, ["train", "--gin_file=a.gin", "--gin_file=b.gin"])
    assert (args.function, args.gin, args.gin_file) == (train, True, ["a.gin", "b.gin"])
    args = parse(parser, ["show", "--workdir=w"])
    assert (args.function, args.gin, args.gin_bindings) == (show, False, [])


def test_gin_flags_come_in_any_order(parser):
    line = "train --gin.A=1 --gin_file=x/a.gin --gin.B='c=d' --gin_file b.gin"
    args = parse(parser, line.split())
    assert args.gin_file == ["x/a.gin", "b.gin"]
    assert args.gin_bindings == ["A=1", "B='c=d'"]


def test_a_run_is_named_after_its_last_gin_file(parser):
    assert parse(parser, "train --gin_file=a.gin --gin_file=x/b.gin".split()).workdir == "runs/b"
    assert parse(parser, "train --gin_file=a.gin --workdir=w".split()).workdir == "w"


@pytest.mark.parametrize(
    ("written", "value"), [("latest", "latest"), ("best", "best"), ("120", 120)]
)
def test_a_checkpoint_is_latest_best_or_a_step(parser, written, value):
    args = parse(parser, ["show", "--workdir=w", f"--checkpoint={written}"])
    assert args.checkpoint == value


def test_flags_are_known_by_the_names_of_their_values(parser):
    args = parse(parser, ["show", "--workdir=w"])
    assert {"workdir": "--workdir", "rows": "--rows"}.items() <= args.parser.flags().items()
    assert isinstance(args, argparse.Namespace)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "unknown command trian; did you mean train?"),
        ("show --row=3 --workdir=w", "unknown flag --row; did you mean --rows?"),
        ("train --gin_fle=a --gin_file=b", "unknown flag --gin_fle; did you mean --gin_file?"),
        ("show --workdir=w more", "unexpected argument more"),
        ("show", "required: --workdir"),
        ("show --workdir=s3://x", "s3://x is not"),
        ("show --workdir=w --checkpoint=last", "give latest, best or a step number"),
        ("train", "no gin file; add --gin_file="),
        ("train --gin_file=a.gin --gin.STEPS", "--gin.STEPS has no value; write --gin.STEPS=VALUE"),
        ("show --workdir=w --gin.A=1", "takes no --gin.A=1"),
        ("train --gin_file=--", "--gin_file=-- is not a flag's value; give another"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_word(parser, line, message):
    with pytest.raises(UserError) as raised:
        parse(parser, line.split())
    assert message in str(raised.value) and "\n" not in str(raised.value)
