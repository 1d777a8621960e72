import pytest

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.errors import CorruptionError, UserError
from palmscale.run.stored_meta import checked_meta, read_meta

META = {
    "identity": {"model": {"class": "PaLM"}},
    "vocabulary": {"kind": "bytes"},
    "sequence_length": 8,
    "num_params": 9,
    "operative_config": "",
    "mesh": {"data": 1},
    "versions": {"jax": "0.10.2"},
}


def test_the_meta_of_a_run_is_read(result, workdir):
    meta = read_meta(CheckpointReader(workdir / "checkpoints"))
    assert meta["identity"]["model"]["class"] == meta["run"]["model"]["class"] == "PaLM"


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no checkpoint in {tmp_path}"):
        read_meta(CheckpointReader(tmp_path / "checkpoints"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"warm_start": None, "rules": {"embed": ["data", "model"], "mlp": None}}, None),
        ({"num_params": "9"}, "num_params is '9'"),
        ({"mesh": {"data": 0}}, "mesh.data is 0"),
        ({"rules": {"embed": 3}}, "rules.embed is 3"),
        ({"run": []}, "run is"),
        ({"spike_history": {"rewinds": [3]}}, "spike_history.rewinds.0 is 3"),
        ({"identity": None}, "identity is None"),
    ],
    ids=str,
)
def test_a_meta_of_another_form_is_told_with_its_place(change, told, tmp_path):
    reader = CheckpointReader(tmp_path)
    if told is None:
        assert checked_meta(META | change, reader) == META | change
        return
    with pytest.raises(CorruptionError, match=f"meta.json in .* is not what .*{told}"):
        checked_meta(META | change, reader)
