"""A tiny model under evaluation, which the tests of this folder share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale import PaLM
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.evals.candidate import Candidate
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=259, dim=16, depth=1, heads=2, dim_head=8, ff_mult=2)


@pytest.fixture(scope="session")
def candidate():
    """It sees 512 tokens; what comes next depends on more than the last token."""
    chance = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(0.3 * chance.normal(size=leaf.shape), "float32")  # noqa: E731
    return Candidate(
        model=MODEL,
        variables={"params": jax.tree.map(draw, unbox(abstract_params(MODEL)))},
        vocabulary=ByteVocabulary(),
        layout=None,
        context_length=512,
    )
