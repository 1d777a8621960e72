import jax
import jax.numpy as jnp
import pytest
from small_run import MODEL

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli import main
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.partition.shardings import unbox
from palmscale.run.identity import describe


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with one step. Not to be written to."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    params = unbox(jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"])
    meta = {
        "identity": {"model": describe(MODEL)},
        "vocabulary": ByteVocabulary().description(),
        "sequence_length": 32,
        "num_params": 88,
        "operative_config": "",
        "mesh": {"replica": 1, "data": 1, "model": 1},
        "versions": {},
    }
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as store:
        store.save(7, params=params, optimizer_state={}, cursor={"row": 5}, meta=meta)
    return workdir


def run(*line):
    return main.run(["checkpoint", *map(str, line)])


def test_the_copy_is_told_verified_and_shown(saved, tmp_path, capsys):
    to = f"--to={tmp_path / 'int8'}"
    assert run("quantize", f"--workdir={saved}", to) == 0
    assert f"Wrote step 7 to {tmp_path}/int8: int8 weights, " in capsys.readouterr().out
    copy = f"--workdir={tmp_path / 'int8'}"
    assert run("verify", copy) == 0 and "good" in capsys.readouterr().out
    assert run("show", copy) == 0
    shown = capsys.readouterr().out
    assert shown.count("/qvalue") == 7 and '{"row": 5}' in shown
    assert ["weights", "int8"] in [line.split() for line in shown.splitlines()]
    assert run("quantize", f"--workdir={saved}", to) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("has checkpoints already; choose a folder that has none.")
