"""Merged adapters are a run of whole parameters, equal to base and adapters side by side."""

import json
import re

import numpy as np
import pytest

import palmscale
from palmscale.checkpoint.digest import damages
from palmscale.errors import UserError
from palmscale.model.interface import variables_of
from palmscale.run.merge import merge
from palmscale.run.stored_run import stored_run


@pytest.fixture(scope="module")
def merged(adapter_workdir, tmp_path_factory):
    """The folder of the merged run."""
    folder = tmp_path_factory.mktemp("merged") / "run"
    written = merge(adapter_workdir, folder)
    assert written.step == 4 and written.bytes == 4 * 38_496
    return folder


def test_the_merged_model_equals_base_and_adapters(merged, adapter_workdir):
    whole, apart = palmscale.load(merged), palmscale.load(adapter_workdir)
    assert whole.params.keys() == {"embedding", "final_norm", "layers"}
    ids_BL = np.arange(32, dtype=np.int32)[None]
    ours, theirs = (
        t.model.apply(variables_of(t.params), ids_BL)[..., :259] for t in (whole, apart)
    )
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_a_merged_run_is_one_of_whole_parameters(merged, small_run, adapter_run):
    assert damages(merged / "checkpoints/0") == []
    meta = json.loads((merged / "checkpoints/0/meta.json").read_text())
    assert "trainable" not in meta["identity"] and meta["num_params"] == 38_496
    assert stored_run(merged).trainable == ()
    own = palmscale.evaluate(small_run, merged).metrics["eval_loss"]
    base = adapter_run.warm_start.workdir
    assert own != palmscale.evaluate(small_run, base).metrics["eval_loss"]


def test_what_cannot_be_merged_is_refused(merged, adapter_workdir, workdir, tmp_path):
    with pytest.raises(UserError, match=f"{re.escape(str(merged))} has checkpoints already"):
        merge(adapter_workdir, merged)
    with pytest.raises(UserError, match="has no adapters to merge"):
        merge(workdir, tmp_path / "new")
    assert not (tmp_path / "new").exists()
