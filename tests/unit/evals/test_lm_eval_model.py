"""What lm-eval's requests ask of a candidate."""

from types import SimpleNamespace

import pytest

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.evals.lm_eval_model import CandidateLM
from palmscale.infer.likelihoods import Likelihood


class Recorder:
    """A candidate that notes what it is asked."""

    vocabulary, context_length = ByteVocabulary(), 64

    def likelihoods(self, pairs):
        self.pairs = pairs
        return [Likelihood(-1.0, True)] * len(pairs)

    def continuations(self, requests):
        self.requests = requests
        return ["text"] * len(requests)


@pytest.fixture
def asked():
    recorder = Recorder()
    return recorder, CandidateLM(recorder)


def request(*args):
    return SimpleNamespace(args=args)


def ids(text):
    return ByteVocabulary().encode(text).tolist()


def test_every_context_begins_with_bos_and_its_last_spaces_belong_to_the_continuation(asked):
    recorder, lm = asked
    requests = [request("ab ", "c"), request("", "c"), request("ab", " c")]
    assert lm.loglikelihood(requests) == [(-1.0, True)] * 3
    assert recorder.pairs == [([0, *ids("ab")], ids(" c")), ([0], ids("c")), recorder.pairs[0]]


def test_a_task_is_continued_greedily_unless_it_asks_to_draw(asked):
    recorder, lm = asked
    settings = [
        {"until": ["\n", ""], "do_sample": False, "temperature": 0.7},
        {"until": "a", "max_gen_toks": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.9},
        {},
    ]
    assert lm.generate_until([request("x", of) for of in settings]) == ["text"] * 3
    one, two, three = recorder.requests
    assert (one.stop, one.temperature, one.max_tokens) == (("\n",), 0.0, 256)
    assert (two.stop, two.temperature, two.max_tokens, two.top_p) == (("a",), 0.7, 9, 0.9)
    assert (three.stop, three.temperature) == ((), 0.0)


def test_the_world_is_one_process_whatever_the_job(asked):
    _, lm = asked
    assert (lm.rank, lm.world_size) == (0, 1)
    assert (lm.prefix_token_id, lm.eot_token_id, lm.max_length) == (0, 1, 64)
