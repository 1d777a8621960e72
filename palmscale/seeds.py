"""The seeds of random keys: JAX keeps 32 bits of a seed, and larger ones would repeat others."""

from palmscale.errors import UserError

LEAST, MOST = -(2**31), 2**32 - 1


def check_seed(name: str, seed: int) -> None:
    """Checks that a seed is one of its own.

    Raises:
        UserError: it is not between -2^31 and 2^32 - 1.
    """
    if not LEAST <= seed <= MOST:
        raise UserError(f"{name}={seed} is out of range; use {LEAST} to {MOST}.")
