"""The tree of PaLM-flax with and without its collection; test_fused_layout.py has the rest."""

import numpy as np
import original_states

from palmscale.interop import palm_flax
from palmscale.interop.tensors import of_array


def test_the_bare_tree_is_the_same_as_that_of_init():
    state = {name: of_array(array) for name, array in original_states.palm_flax("odd").items()}
    bare = {name.removeprefix("params/"): each for name, each in state.items()}
    assert len(bare) == len(state)
    (model, params), (same, again) = palm_flax.imported(state), palm_flax.imported(bare)
    assert model == same
    for path, tensor in params.items():
        np.testing.assert_array_equal(tensor.read(), again[path].read())
