import jax
import pytest

from palmscale.errors import UserError
from palmscale.seeds import LEAST, MOST, check_seed


def test_seeds_in_range_make_keys_of_their_own():
    seeds = (LEAST, -1, 0, 1, MOST - 1)
    for seed in seeds:
        check_seed("seed", seed)
    assert len({jax.random.key_data(jax.random.key(seed)).tobytes() for seed in seeds}) == 5


@pytest.mark.parametrize("seed", [LEAST - 1, MOST + 1, 2**80])
def test_a_seed_out_of_range_is_named(seed):
    with pytest.raises(UserError, match=f"^--seed={seed} is out of range; use {LEAST} to {MOST}"):
        check_seed("--seed", seed)
