import pytest

from palmscale.data.sources.task_errors import cause, explained
from palmscale.errors import UserError

IN_USER_CODE = """in user code:

    File "/my/tasks.py", line 5, in g  *
        def g(x): raise ValueError('it has a bug')

    ValueError: it has a bug
"""
IN_NUMPY = """{{function_node __wrapped__Next}} Error in user-defined function passed to \
MapDataset:3 transformation with iterator: Iterator::Root::Map: ValueError: inside numpy
Traceback (most recent call last):

  File "/env/site-packages/tensorflow/python/ops/script_ops.py", line 269, in __call__
    ret = func(*args)

  File "/my/tasks.py", line 11, in f
    raise ValueError('inside numpy')

ValueError: inside numpy


\t [[{{node PyFunc}}]] [Op:IteratorGetNext] name: """
IN_GRAPH = """{{function_node __wrapped__Next}} Error in user-defined function passed to \
MapDataset:7 transformation with iterator: Iterator::Root::Prefetch::ParallelMapV2: no number: x
\t [[{{node StringToNumber}}]] [Op:IteratorGetNext] name: """


class InvalidArgumentError(Exception):
    pass


class UnavailableError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(IN_USER_CODE), "ValueError: it has a bug (/my/tasks.py:5)"),
        (InvalidArgumentError(IN_NUMPY), "ValueError: inside numpy (/my/tasks.py:11)"),
        (InvalidArgumentError(IN_GRAPH), "InvalidArgumentError: no number: x"),
        (KeyError("text"), "KeyError: 'text'"),
        (ValueError(), "ValueError: "),
    ],
)
def test_the_cause_is_one_line_with_its_place(error, line):
    assert cause(error) == line


def failing(error):
    yield 1
    raise error


def test_a_users_code_that_raises_is_the_users_mistake():
    read = explained(lambda: failing(KeyError("text")), "SeqioTask.mixture_or_task='mine'")
    assert next(read) == 1
    with pytest.raises(UserError, match=r"='mine' cannot be read: KeyError: 'text' \(.*\.py:\d+\)"):
        next(read)


def test_a_mistake_that_is_already_explained_stays_as_it_is():
    with pytest.raises(UserError, match="^a.txt:1: bad$"):
        list(explained(lambda: failing(UserError("a.txt:1: bad")), "it"))


def test_what_may_pass_is_no_mistake():
    with pytest.raises(RuntimeError, match="reading it failed .*start again"):
        list(explained(lambda: failing(UnavailableError("socket closed")), "it"))


def test_what_the_reader_of_examples_raises_is_not_explained():
    with pytest.raises(ZeroDivisionError):
        for _ in explained(lambda: iter([1]), "it"):
            raise ZeroDivisionError
