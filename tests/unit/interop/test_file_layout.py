"""A layout that is one file: cast, written, and read again."""

import numpy as np
import original_states
import pytest

from palmscale.interop import file_layout, palm_flax
from palmscale.interop.layouts import Options, Outgoing
from palmscale.interop.tensor_files import read_tensors
from palmscale.interop.tensors import of_array


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_written_as_the_dtype_and_read_as_float32(tmp_path, dtype):
    tensors = {name: of_array(array) for name, array in original_states.palm_flax("odd").items()}
    model, params = palm_flax.imported(tensors)
    layout = file_layout.export_to_file(palm_flax.exported)
    assert dtype in layout.dtypes
    path = tmp_path / "weights.safetensors"
    outgoing = dict(model=model, params=params, vocabulary=None, context_length=8, dtype=dtype)
    layout.write(Outgoing(**outgoing), path)
    assert {str(tensor.dtype) for tensor in read_tensors(path).values()} == {dtype}
    (found,) = file_layout.import_from_file(palm_flax.imported).read(path, Options())
    assert found.model == model
    for name, tensor in params.items():
        cast = tensor.read().astype(np.dtype(dtype)).astype(np.float32)
        np.testing.assert_array_equal(found.params[name].read(), cast)
