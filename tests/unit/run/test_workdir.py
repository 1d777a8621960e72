import jax.numpy as jnp
import pytest

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import CorruptionError, UserError
from palmscale.run.workdir import CHECKPOINTS, NAMES, checkpoints, choose, own_folder, saved_steps


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with Lease(folder) as lease, CheckpointStore(folder / CHECKPOINTS, lease=lease) as store:
        for step, loss in ((2, 3.0), (4, 1.0), (6, 2.0)):
            values = {"params": {"a": jnp.full(2, step)}, "optimizer_state": {}}
            store.save(step, **values, cursor={}, meta={}, metrics={"eval_loss": loss})
    return folder


@pytest.mark.parametrize(("which", "step"), [("latest", 6), ("best", 4), (2, 2)])
def test_a_step_is_chosen_by_its_age_its_loss_or_its_number(workdir, which, step):
    assert choose(checkpoints(workdir), which).step == step


def test_a_step_that_is_absent_is_refused_with_those_that_are_there(workdir):
    with pytest.raises(UserError, match="no verified checkpoint 3 in .*; verified: 2, 4, 6"):
        choose(checkpoints(workdir), 3)


def test_a_folder_that_holds_no_run_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"no run in .* \(checkpoints/ is missing\)"):
        checkpoints(tmp_path)
    (tmp_path / CHECKPOINTS).mkdir()
    with pytest.raises(UserError, match="no checkpoint in"):
        saved_steps(checkpoints(tmp_path))


def test_a_folder_of_another_program_says_how_to_import_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "cohere2_moe"}')
    call = rf"import_weights\('{tmp_path}', 'hf', workdir\)$"
    with pytest.raises(UserError, match=f"holds weights in the layout hf and no run; .*{call}"):
        checkpoints(tmp_path)


def test_no_two_things_in_the_folder_have_one_name():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.gin"])
def test_a_file_that_a_run_writes_is_no_link_out_of_its_folder(name, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to("here")
    assert own_folder(folder) == folder
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    with pytest.raises(CorruptionError, match=f"run/{name} is a link that leads out"):
        own_folder(folder)
    assert own_folder(str(tmp_path / "absent")) == tmp_path / "absent"
