import jax.numpy as jnp
import pytest

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli import main

CONFIG = """
# Macros:
# ====
TRAIN_STEPS = 16

# Parameters for PaLM:
PaLM.dim = {dim}
Run.allow_changes = \\
    ('a',
     'b')
"""


def saved(workdir, params, *, steps=(10, 20), dim=4):
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as store:
        for step in steps:
            meta = {
                "identity": {"data": {"digest": "abc"}},
                "operative_config": CONFIG.format(dim=dim),
                "mesh": {"data": dim},
                "course": {"rewinds": [step]},
            }
            store.save(step, params=params(step), optimizer_state={}, cursor={}, meta=meta)
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The workdirs of two runs that differ in everything that may. Not to be written to."""
    folder = tmp_path_factory.mktemp("runs")

    def params(step):
        return {"w": jnp.ones((2, 3)) * step, "same": jnp.ones(5)}

    def others(step):
        return {"w": jnp.ones((2, 4)), "same": jnp.ones(5, jnp.bfloat16), "extra": jnp.ones(1)}

    return saved(folder / "a", params), saved(folder / "b", others, steps=(20,), dim=8)


def diff(capsys, *line, code):
    assert main.run(["checkpoint", "diff", *map(str, line)]) == code
    captured = capsys.readouterr()
    return captured.err if code == 2 else " ".join(captured.out.split())


def test_a_checkpoint_equals_itself_and_a_copy(runs, capsys):
    told = diff(capsys, runs[0], f"{runs[0]}@20", code=0)
    assert told.endswith("All arrays are equal. All settings are equal.")
    diff(capsys, "10", "10", f"--workdir={runs[0]}", code=0)


def test_two_steps_differ_in_values_and_not_in_their_course(runs, capsys):
    told = diff(capsys, "10", "latest", f"--workdir={runs[0]}", code=1)
    assert "step 10 B" in told and "step 20" in told
    assert "1 of 2 arrays differ" in told and "params/w values" in told
    assert "params/same" not in told and told.endswith("All settings are equal.")


def test_two_runs_differ_in_shape_dtype_presence_and_settings_by_name(runs, capsys):
    told = diff(capsys, *runs, code=1)
    assert "params/extra presence absent float32[1]" in told
    assert "params/same dtype float32 bfloat16" in told
    assert "params/w shape [2, 3] [2, 4]" in told
    assert "2 settings differ" in told
    assert "mesh.data 4 8" in told and "PaLM.dim 4 8" in told


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (("10", "20"), "10 is a step of an unknown run; write WORKDIR@10, or add --workdir"),
        (("{a}@15", "{a}"), "there is no verified checkpoint 15 in {a}/checkpoints"),
        (("{a}", "{a}x"), "there is no run in {a}x"),
        (("{a}@last", "{a}"), "last is not a checkpoint; give latest, best or a step number"),
        (("1o", "20", "--workdir={a}"), "1o is not a checkpoint"),
    ],
)
def test_a_mistake_is_one_line(line, answer, runs, capsys):
    told = diff(capsys, *(part.format(a=runs[0]) for part in line), code=2)
    assert answer.format(a=runs[0]) in told and told.count("\n") == 1
