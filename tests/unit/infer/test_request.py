"""A request that cannot be meant is refused where it is made."""

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.infer.request import Request, sample_seed

PROMPT = np.array([0, 3], np.int32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": PROMPT[:0]}, "the prompt has no token; begin it with the vocabulary's bos id"),
        ({"max_tokens": -1}, "max_tokens=-1 must be 0 or more"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be an integer of 64 bits"),
        ({"score_from": 0}, "score_from=0 must be at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Request(**({"prompt": PROMPT, "max_tokens": 1} | fields))


def test_samples_have_seeds_of_their_own_and_the_first_the_seed_itself():
    seeds = {sample_seed(seed, number) for seed in (0, 1, 2**32 - 1, -1) for number in range(3)}
    assert len(seeds) == 12
    assert sample_seed(7, 0) == 7
    for seed in seeds:
        Request(prompt=PROMPT, max_tokens=1, seed=seed)
