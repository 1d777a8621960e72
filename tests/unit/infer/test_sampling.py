"""What a request may ask for, and the values of its row."""

import jax
import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.infer.sampling import Sampling, allowed_of, bias_of, row_of


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": -0.1}, r"temperature=-0.1 must be 0 \(greedy\) or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"min_p": -0.1}, r"min_p=-0.1 must be in \[0, 1\]"),
        ({"min_p": 1.5}, "min_p=1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be more than 0 and finite"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan"),
        ({"presence_penalty": 2.5}, r"presence_penalty=2.5 must be in \[-2, 2\]"),
        ({"frequency_penalty": float("nan")}, r"frequency_penalty=nan must be in \[-2, 2\]"),
        ({"logit_bias": ((-1, 5.0),)}, "logit_bias names the token id -1; ids begin at 0"),
        ({"logit_bias": ((7, 101.0),)}, r"logit_bias=101.0 of token id 7 must be in \[-100, 100\]"),
        ({"logit_bias": ((7, float("nan")),)}, "logit_bias=nan of token id 7"),
    ],
)
def test_values_out_of_range_are_the_users_mistake(fields, message):
    with pytest.raises(UserError, match=message):
        Sampling(**fields)


def test_it_says_what_it_needs():
    assert not Sampling().filters and not Sampling(temperature=0.5).filters
    for fields in {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}:
        assert Sampling(**fields).filters
    assert not Sampling(top_p=0.5, logit_bias=((1, 1.0),)).penalizes
    for name in "repetition_penalty", "presence_penalty", "frequency_penalty":
        assert Sampling(**{name: 1.5}).penalizes


def test_a_row_holds_what_leaves_the_logits_alone_unless_asked():
    row = row_of(Sampling(), seed=0)
    assert (row["temperature_B"], row["top_k_B"], row["top_p_B"], row["min_p_B"]) == (1, 0, 1, 0)
    assert (row["repetition_B"], row["presence_B"], row["frequency_B"]) == (1, 0, 0)


def test_values_that_float32_or_int32_cannot_hold_become_the_nearest():
    row = row_of(Sampling(temperature=1e300, top_k=2**60), seed=0)
    assert np.isfinite(row["temperature_B"]) and row["top_k_B"] == 2**31 - 1


def test_seeds_of_64_bits_have_keys_of_their_own():
    for seed in 0, 1, 7, 2**32 - 1:
        key_2 = row_of(Sampling(), seed)["key_B2"]
        np.testing.assert_array_equal(key_2, jax.random.key_data(jax.random.key(seed)))
    seeds = [0, 1, -1, 2**32 - 1, 2**32, 2**63, 2**64 - 2, -(2**63) + 1]
    assert len({row_of(Sampling(), seed)["key_B2"].tobytes() for seed in seeds}) == len(seeds)


def test_the_bias_of_ids_stands_at_their_places():
    sampling = Sampling(logit_bias=((1, -100), (3, 2.5)))
    np.testing.assert_array_equal(bias_of(sampling, 5), np.float32([0, -100, 0, 2.5, 0]))
    with pytest.raises(UserError, match="names the token id 3; ids of this model end at 2"):
        bias_of(sampling, 3)


def test_ids_are_withheld_unless_a_guide_allows_no_other():
    guide_V = np.array([False, True, True, False])
    for withheld, wanted in [({1, 3, 9}, [0, 0, 1, 0, 0, 0]), ({1, 2}, [0, 1, 1, 0, 0, 0])]:
        allowed_V = allowed_of(guide_V, size=6, withheld=frozenset(withheld))
        assert allowed_V.dtype == bool and allowed_V.tolist() == wanted
    assert guide_V.tolist() == [False, True, True, False]  # unchanged
