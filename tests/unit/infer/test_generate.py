"""Generation with a cache that grows is the full model's, whatever its first size."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.infer import generate as module
from palmscale.infer.generate import generate
from palmscale.infer.sampling import Sampling
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

# 37 stored rows, of which 29 are tokens: the others must never be drawn.
MODEL = PaLM(num_tokens=29, dim=16, depth=2, heads=2, dim_head=8, padded_tokens=37, ff_mult=2)
PROMPT = np.array([1, 5, 9], np.int32)
TOKENS = 10
GREEDY, WARM = Sampling(temperature=0.0), Sampling(temperature=1.5)


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    # Large kernels, so that the next token hangs on the context and not on the last token alone.
    draw = lambda leaf: (0.5 * random.normal(size=leaf.shape)).astype("f4")  # noqa: E731
    return jax.tree.map(draw, unbox(abstract_params(MODEL)))


@pytest.fixture
def first_slots(monkeypatch):
    """Sets the slots that a cache starts with."""
    return lambda slots: monkeypatch.setattr(module, "_FIRST_SLOTS", slots)


def tokens(params, sampling, *, prompt=PROMPT, seed=0, num_samples=1, max_tokens=TOKENS):
    """[num_samples, max_tokens]"""
    drawn = list(
        generate(
            model=MODEL,
            params=params,
            prompt=prompt,
            sampling=sampling,
            seed=seed,
            num_samples=num_samples,
            max_tokens=max_tokens,
        )
    )
    return np.stack(drawn, axis=1) if drawn else None


def test_greedy_is_the_argmax_of_the_full_forward_pass_at_each_position(params, first_slots):
    first_slots(len(PROMPT) + 1)  # exactly full after one more token; grows twice
    (drawn,) = tokens(params, GREEDY)
    whole = np.concatenate([PROMPT, drawn])
    logits_LV = jax.jit(MODEL.apply)({"params": params}, whole[None])[0]
    predicted = np.asarray(logits_LV).argmax(-1)
    np.testing.assert_array_equal(drawn, predicted[len(PROMPT) - 1 : -1])
    assert len(set(drawn.tolist())) > 3


def test_the_same_seed_gives_the_same_tokens_however_the_cache_grows(params, first_slots):
    found = []
    for slots in 2, 128:
        first_slots(slots)
        found.append(tokens(params, WARM))
    np.testing.assert_array_equal(found[0], found[1])
    assert (tokens(params, WARM, seed=1) != found[0]).any()


def test_samples_differ_and_no_padding_id_is_drawn(params):
    drawn = tokens(params, Sampling(temperature=100.0), num_samples=16)
    assert drawn.shape == (16, TOKENS) and drawn.dtype == np.int32
    assert len({row.tobytes() for row in drawn}) == 16
    assert 0 <= drawn.min() and drawn.max() < MODEL.num_tokens


def test_tokens_come_one_at_a_time_and_no_more_than_asked_for(params, monkeypatch):
    calls = []
    compiled = module.next_token
    monkeypatch.setattr(
        module, "next_token", lambda *args: calls.append(args[3].shape) or compiled(*args)
    )
    arguments = dict(model=MODEL, params=params, prompt=PROMPT, sampling=GREEDY, seed=0)
    stream = generate(**arguments, max_tokens=3)
    assert calls == []
    assert next(stream).shape == (1,)
    assert calls == [(1, len(PROMPT))]  # the prompt in one pass
    assert len(list(stream)) == 2
    assert calls == [(1, len(PROMPT)), (1, 1), (1, 1)]
    assert tokens(params, GREEDY, max_tokens=0) is None


class Deaf(nn.Module):
    """Offers what training needs and not what generating needs."""

    def hidden(self, tokens_BL):
        return tokens_BL


def test_what_cannot_generate_is_refused(params):
    with pytest.raises(UserError, match="the prompt has no token.*bos id"):
        tokens(params, GREEDY, prompt=np.array([], np.int32))
    arguments = dict(params=params, prompt=PROMPT, sampling=GREEDY, seed=0, max_tokens=1)
    with pytest.raises(UserError, match="Deaf cannot generate text: it has no `extend"):
        next(generate(model=Deaf(), **arguments))


def test_a_seed_that_would_repeat_another_is_refused(params):
    with pytest.raises(UserError, match="seed=4294967296 is out of range"):
        tokens(params, GREEDY, seed=2**32)
