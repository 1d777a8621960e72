"""Our model against the paper's formulas in NumPy."""

import functools

import formula_weights
import jax
import numpy as np
import pytest
from numpy_palm import block, in_float64, logits

from palmscale import PaLM

CASES = list(formula_weights.CASES)


@functools.cache
def params(case):
    return formula_weights.stack(case, scale_offset=1.0)


@pytest.mark.parametrize("final_norm", ["scaled", "unscaled", "none"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_paper_in_numpy(case, final_norm):
    token_BL = formula_weights.tokens(case)
    model = PaLM(**formula_weights.CASES[case], final_norm=final_norm, query_chunk=8)
    ours_BLV = jax.jit(model.apply)({"params": params(case)}, token_BL)
    paper_BLV = [logits(in_float64(params(case)), token_L, final_norm) for token_L in token_BL]
    assert np.std(paper_BLV) > 0.05
    np.testing.assert_allclose(ours_BLV, paper_BLV, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_one_block_equals_the_paper_in_numpy(case):
    c = formula_weights.CASES[case]
    layers = {name: array[:1] for name, array in params(case)["layers"].items()}
    # The block's input is the table itself, each row looked up once.
    B, L = formula_weights.BATCH, formula_weights.LENGTH
    x_BLD = formula_weights.uniform(f"{case}/x", (B, L, c["dim"])).astype(np.float32)
    tree = {"embedding": x_BLD.reshape(B * L, -1), "layers": layers}
    model = PaLM(**{**c, "depth": 1, "num_tokens": B * L}, final_norm="none", query_chunk=8)
    hidden = jax.jit(functools.partial(model.apply, method="hidden"))
    ours_BLD = hidden({"params": tree}, np.arange(B * L).reshape(B, L))
    layer = in_float64({name: array[0] for name, array in layers.items()})
    paper_BLD = [block(layer, x_LD) for x_LD in x_BLD.astype(np.float64)]
    np.testing.assert_allclose(ours_BLD, paper_BLD, rtol=0, atol=1e-5)
