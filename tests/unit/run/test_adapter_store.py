"""A run of adapters resumes bit for bit with its base, wherever that is, and with no other."""

import dataclasses
import json
import shutil

import pytest

import palmscale
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.errors import UserError
from palmscale.run.train import Debugging
from palmscale.train.faults import Fault
from palmscale.train.spike import SpikePolicy


def arrays(folder, step=4):
    return json.loads((folder / f"checkpoints/{step}/MANIFEST.json").read_text())["arrays"]


@pytest.fixture
def halfway(adapter_workdir, tmp_path):
    """The folder of the run after two of its four steps."""
    folder = shutil.copytree(adapter_workdir, tmp_path / "halfway")
    shutil.rmtree(folder / "checkpoints/4")
    return folder


def test_a_run_resumes_bit_for_bit_though_its_base_has_moved(
    adapter_run, adapter_workdir, halfway, workdir, tmp_path
):
    moved = shutil.copytree(workdir, tmp_path / "moved")
    run = dataclasses.replace(adapter_run, warm_start=WarmStart(workdir=str(moved)))
    assert palmscale.train(run, halfway).step == 4
    assert arrays(halfway) == arrays(adapter_workdir)
    kept = json.loads((halfway / "checkpoints/4/meta.json").read_text())["warm_start"]
    assert kept["workdir"] == str(workdir)  # where it was when the adapter began


def test_another_base_is_refused(adapter_run, halfway, workdir, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(workdir / "checkpoints/2", other / "checkpoints/2")
    run = dataclasses.replace(adapter_run, warm_start=WarmStart(workdir=str(other)))
    with pytest.raises(UserError, match="no checkpoint in .*other has these parameters"):
        palmscale.train(run, halfway)


def test_other_adapters_are_another_run(adapter_run, halfway):
    lora = dataclasses.replace(adapter_run.trainable, alpha=1.0)
    with pytest.raises(UserError, match=r"trainable.alpha: 64.0 -> 1.0"):
        palmscale.train(dataclasses.replace(adapter_run, trainable=lora), halfway)
    with pytest.raises(UserError, match="holds another run .*trainable"):
        palmscale.train(dataclasses.replace(adapter_run, trainable=()), halfway)


def test_adapters_of_adapters_are_refused(adapter_run, adapter_workdir, tmp_path):
    run = dataclasses.replace(adapter_run, warm_start=WarmStart(workdir=str(adapter_workdir)))
    with pytest.raises(UserError, match="merge both into a new one"):
        palmscale.train(run, tmp_path / "new")


def test_a_rewind_returns_to_adapters_beside_their_base(adapter_run, adapter_workdir, tmp_path):
    spikes = SpikePolicy(non_finite_steps=1, rewind_steps=1, skip_steps=1)
    training = dataclasses.replace(adapter_run.training, spikes=spikes)
    run = dataclasses.replace(adapter_run, training=training)
    palmscale.train(run, tmp_path, debugging=Debugging(faults=[Fault("nan", 3)]))
    assert arrays(tmp_path, 2) == arrays(adapter_workdir, 2)
    assert arrays(tmp_path, 4)["params"] != arrays(adapter_workdir, 4)["params"]
    meta = json.loads((tmp_path / "checkpoints/4/meta.json").read_text())
    (rewind,) = meta["spike_history"]["rewinds"]
    assert rewind["rewound_to"] == 2 and meta["warm_start"]["step"] == 4
