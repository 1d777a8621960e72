"""An adapter's file says what it is and what it was trained on; another one is refused."""

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.interop.adapter_file import read, write
from palmscale.interop.layouts import Outgoing
from palmscale.interop.safetensors_file import write_safetensors
from palmscale.interop.tensors import of_array

FACTS = {
    "lora": {"class": "Lora", "rank": 2, "alpha": 4.0, "targets": ["query"]},
    "base": {"workdir": "runs/base", "step": 7, "digest": "ab" * 32},
    "step": 3,
}


def outgoing(tensors):
    return Outgoing(
        model=None, params=tensors, vocabulary=None, context_length=8, dtype="float32", origin=FACTS
    )


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    down = np.random.default_rng(0).normal(size=(2, 8, 2)).astype(np.float32)
    write(outgoing({"layers/query/down": of_array(down)}), tmp_path / "a.safetensors")
    facts, tensors = read(tmp_path / "a.safetensors")
    assert facts == FACTS
    np.testing.assert_array_equal(tensors["layers/query/down"].read(), down)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        (None, "is not an adapter that palmscale exported"),
        ({"layout": "palmscale"}, "is not an adapter that palmscale exported"),
        ({"layout": "palmscale adapter", "lora": "{}"}, r"are not whole \('base'\)"),
        ({"layout": "palmscale adapter", "lora": "{"}, "are not whole"),
    ],
)
def test_another_file_is_refused(metadata, told, tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": of_array(np.zeros(2, np.float32))}, metadata=metadata)
    with pytest.raises(UserError, match=told):
        read(path)
