"""The numbers in the names of PaLM-pytorch follow from the depth; see test_fused_layout.py."""

import original_states

from palmscale.interop import palm_pytorch
from palmscale.interop.tensors import of_array


def test_the_norm_and_the_table_after_the_layers_are_numbered_on():
    state = {name: of_array(array) for name, array in original_states.palm_pytorch("odd").items()}
    model, params = palm_pytorch.imported(state)
    assert model.depth == 3
    assert list(palm_pytorch.exported(model, params))[-3:] == ["4.gamma", "4.beta", "5.weight"]
