"""The run that a checkpoint describes is the one that trained, and brings no code of its own."""

import dataclasses
import shutil

import forged
import optax
import pytest
from small_run import DATA

from palmscale.data.dataset import Component
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.seqio_tasks import Tfds
from palmscale.errors import UserError
from palmscale.run.stored_run import check_reads_no_code, stored_run


def test_the_checkpoint_describes_the_run(small_run, result, workdir):
    found = stored_run(workdir)
    assert dataclasses.replace(found, optimizer=small_run.optimizer) == small_run


def test_the_optimizer_of_the_run_is_not_built(result, workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "run")
    for optimizer in ({"class": "subprocess:Popen"}, {"function": "optax:lion", "b1": 0.9}, None):

        def change(meta, optimizer=optimizer):
            return meta | {"run": meta["run"] | {"optimizer": optimizer}}

        forged.edit(copy / "checkpoints/4", "meta.json", change)
        assert stored_run(copy).optimizer.init({}) == optax.EmptyState()


def test_a_checkpoint_of_0_1_0_describes_no_run(workdir, tmp_path):
    def without_run(meta):
        return {name: value for name, value in meta.items() if name != "run"}

    copy = shutil.copytree(workdir, tmp_path / "run")
    forged.edit(copy / "checkpoints/4", "meta.json", without_run)
    assert stored_run(copy) is None


def test_a_module_that_it_imports_must_be_chosen():
    data = dataclasses.replace(DATA, import_modules=("a", "b.c"))
    check_reads_no_code(data, ["a", "b"])
    with pytest.raises(UserError, match="imports the module 'b.c' .* modules=b.c"):
        check_reads_no_code(data, ["a"])


@pytest.mark.parametrize(
    ("source", "reads_code"),
    [
        (Tfds(dataset="c4/en:3.0.1"), False),
        (Tfds(dataset="c4/en:3.0.1", data_dir="here"), True),
        (Tfds(dataset="kubric:movi_a"), True),
    ],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_dataset_whose_files_name_code_is_refused(source, reads_code, mixed):
    data = dataclasses.replace(DATA, corpus=Corpus(source=source))
    if mixed:
        parts = (Component(name="a", weight=1, corpus=data.corpus),)
        data = dataclasses.replace(data, corpus=None, components=parts)
    if not reads_code:
        return check_reads_no_code(data, [])
    with pytest.raises(UserError, match="may name code; if you trust them, name the run's gin"):
        check_reads_no_code(data, [])
