"""A request is over with its last token, and says why."""

import dataclasses

import numpy as np
import pytest

from palmscale.infer.request import Request, Token
from palmscale.infer.running import Running
from palmscale.infer.sampling import Sampling

GREEDY = Request(prompt=np.array([0, 7]), max_tokens=3, sampling=Sampling(temperature=0))


def tokens(*ids):
    return [Token(id=i) for i in ids]


def test_it_ends_with_its_last_token_and_drops_what_was_foreseen_beyond():
    running = Running(4, GREEDY)
    assert running.last_token() == 7
    output = running.tell(tokens(1, 2))
    assert output.finished is None and not running.is_over and running.last_token() == 2
    output = running.tell(tokens(5, 6))
    assert [t.id for t in output.tokens] == [5] and output.finished == "length"
    assert output.request_id == 4 and running.is_over


def test_a_stop_id_ends_it_at_once():
    running = Running(0, dataclasses.replace(GREEDY, stop_ids=frozenset([9])))
    output = running.tell(tokens(9, 3))
    assert [t.id for t in output.tokens] == [9] and output.finished == "stop"


def test_stop_ids_are_withheld_until_enough_tokens_are_asked_for():
    running = Running(0, dataclasses.replace(GREEDY, stop_ids=frozenset([9]), min_tokens=2))
    assert running.withheld == {9}
    running.asked_tokens = 2
    assert running.withheld == frozenset() and running.wants_tokens
    running.asked_tokens = 3
    assert not running.wants_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(temperature=0.1)},
        {"sampling": Sampling(temperature=0, presence_penalty=1)},
        {"sampling": Sampling(temperature=0, logit_bias=((1, 2.0),))},
        {"min_tokens": 1},
        {"top_log_probabilities": 0},
    ],
)
def test_only_the_likeliest_tokens_of_the_model_itself_are_plain(fields):
    assert Running(0, GREEDY).is_plain
    assert not Running(0, dataclasses.replace(GREEDY, **fields)).is_plain
