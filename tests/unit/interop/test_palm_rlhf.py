"""What a file of PaLM-rlhf-pytorch leaves open, and what palmscale cannot express.

test_fused_layout.py has what the layouts of the originals share.
"""

import numpy as np
import original_states
import pytest

from palmscale.errors import UserError
from palmscale.interop import palm_rlhf
from palmscale.interop.layouts import Options
from palmscale.interop.tensor_files import write_tensors
from palmscale.interop.tensors import of_array

CASE = "odd"


def state():
    return {name: of_array(array) for name, array in original_states.palm_rlhf(CASE).items()}


def imported(tensors):
    return palm_rlhf.imported(tensors, norm_scale_offset=0.0, final_norm="scaled")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (Options(), [(0.0, "scaled"), (0.0, "none"), (1.0, "scaled"), (1.0, "none")]),
        (Options(norm_scale_offset=0.0), [(0.0, "scaled"), (0.0, "none")]),
        (Options(norm_scale_offset=1.0, final_norm="scaled"), [(1.0, "scaled")]),
    ],
)
def test_what_the_options_leave_open_are_several_models(tmp_path, options, found):
    write_tensors(tmp_path / "a.npz", state())
    models = palm_rlhf.read(tmp_path / "a.npz", options)
    assert [(m.model.norm_scale_offset, m.model.final_norm) for m in models] == found
    assert all(("final_norm" in m.params) == (m.model.final_norm == "scaled") for m in models)
    assert [(m.choice.norm_scale_offset, m.choice.final_norm) for m in models] == found


def test_normalized_queries_and_keys_are_refused_by_name():
    tensors = {**state(), "layers.0.fn.q_scale": of_array(np.ones(8, np.float32))}
    with pytest.raises(UserError, match=r"layers.0.fn.q_scale, .* \(qk_rmsnorm=True\)"):
        imported(tensors)


def test_files_of_before_dropout_have_another_name_for_the_output_kernel():
    tensors = {n.replace(".ff_out.2.", ".ff_out.1."): each for n, each in state().items()}
    model, params = imported(tensors)
    assert list(palm_rlhf.exported(model, params)) == list(state())


def test_files_of_before_xpos_have_rope():
    tensors = {name: each for name, each in state().items() if not name.endswith(".scale")}
    assert imported(state())[0].rotary == "xpos"
    model, params = imported(tensors)
    assert model.rotary == "rope"
    with pytest.raises(UserError, match="palm_rlhf cannot express PaLM.rotary='rope'"):
        palm_rlhf.exported(model, params)


def test_adapters_in_a_file_are_listed_as_unknown():
    name = "finetune_modules.default.0.0.A"
    with pytest.raises(UserError, match=f"unknown: {name} .4, 2."):
        imported({**state(), name: of_array(np.ones((4, 2), np.float32))})
