"""With the same weights, our logits are those of the two original programs (make_goldens.py)."""

import pathlib

import formula_weights
import jax
import numpy as np
import pytest

from palmscale import PaLM

# How the originals differ from the paper; beside these, their fused kernel has the gate last.
DIALECT = dict(
    norm="layer", norm_eps=1e-5, norm_scale_offset=0.0, final_norm="scaled", logit_scale=1.0
)


@pytest.mark.parametrize("case", formula_weights.CASES)
@pytest.mark.parametrize("original", ["palm_flax", "palm_pytorch"])
def test_logits_equal_those_of_the_original(original, case):
    with np.load(pathlib.Path(__file__).with_name(f"{original}.npz")) as golden:
        expected = golden[case]
    model = PaLM(**formula_weights.CASES[case], **DIALECT, query_chunk=8)
    params = formula_weights.stack(case, scale_offset=0.0)
    logits = jax.jit(model.apply)({"params": params}, formula_weights.tokens(case))
    assert expected.std() > 0.4
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_originals_agree_with_one_another():
    here = pathlib.Path(__file__).parent
    with np.load(here / "palm_flax.npz") as one, np.load(here / "palm_pytorch.npz") as other:
        for case in formula_weights.CASES:
            np.testing.assert_allclose(one[case], other[case], rtol=0, atol=1e-5)
