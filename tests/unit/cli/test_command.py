import pytest

from palmscale.cli.command import Parser, add_command
from palmscale.errors import UserError


def parser():
    top = Parser(prog="tool")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    add_command(commands, "train", "training.train", "Train.", gin=True)
    add_command(commands, "show", "show.show", "Show.").add_argument("--rows")
    return top


def test_a_command_knows_who_answers_it_and_whether_it_reads_gin_files():
    args = parser().parse_args(["train", "--gin_file=a.gin", "--gin_file=b.gin"])
    assert (args.function, args.gin, args.gin_file) == ("training.train", True, ["a.gin", "b.gin"])
    assert not parser().parse_args(["show"]).gin


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "unknown command trian; did you mean train"),
        (["show", "--row=3"], "unknown flag --row"),
        (["show", "more"], "unexpected argument more"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_word(arguments, says):
    with pytest.raises(UserError) as error:
        args, unknown = parser().parse_known_args(arguments)
        args.parser.refuse_unknown(unknown)
    assert says in str(error.value) and "\n" not in str(error.value)
