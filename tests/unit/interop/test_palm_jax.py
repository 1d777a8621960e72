"""The arrays of an Equinox file have numbers for names; test_fused_layout.py has the rest."""

import numpy as np
import original_states
import pytest

from palmscale.errors import UserError
from palmscale.interop import palm_jax
from palmscale.interop.tensors import of_array


def numbered(count=None):
    arrays = list(original_states.palm_jax("odd").values())[:count]
    return {str(n): of_array(array) for n, array in enumerate(arrays)}


def test_numbers_stand_for_the_fields_of_the_module_in_order():
    state = {name: of_array(array) for name, array in original_states.palm_jax("odd").items()}
    (model, params), (same, again) = palm_jax.imported(state), palm_jax.imported(numbered())
    assert model == same and model.depth == 3
    for path, tensor in params.items():
        np.testing.assert_array_equal(tensor.read(), again[path].read())


def test_a_file_that_ends_early_names_what_is_missing():
    with pytest.raises(UserError, match=r"missing: layers.2.ff_wo \[96, 32\]"):
        palm_jax.imported(numbered(-1))
    with pytest.raises(UserError, match="embedding is missing"):
        palm_jax.imported({})
