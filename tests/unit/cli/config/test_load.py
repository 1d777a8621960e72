"""What is loaded is what is built, written and loaded again."""

import pathlib
import subprocess
import sys

import pytest
from toy_config import HEAD, RUN, SCOPED, MeshSpec, PaLM, load_text, train, write

from palmscale.cli.config import load
from palmscale.errors import CorruptionError, UserError


def test_a_module_is_built_from_its_bindings_and_is_of_its_own_class(tmp_path):
    load_text(
        tmp_path,
        RUN + "palm.train.mesh = @palm.MeshSpec()\npalm.MeshSpec:\n  data = 4\n  model = 2\n",
    )
    model, steps, rate, mesh, _ = load.bound_call(train)
    assert type(model) is PaLM and (model.dim, model.depth) == (8, 2)
    assert type(mesh) is MeshSpec and mesh == MeshSpec(data=4, model=2)
    assert (steps, rate) == (5, 0.1)


def test_plain_python_is_not_configured(tmp_path):
    load_text(tmp_path, RUN)
    with pytest.raises(TypeError, match="dim"):
        PaLM()
    assert PaLM(dim=3).dim == 3


def test_the_command_line_wins_over_files(tmp_path):
    load_text(tmp_path, RUN, "STEPS=7", "palm.PaLM.depth=9", "palm.train.rate=1")
    model, steps, rate, *_ = load.bound_call(train)
    assert (model.depth, steps, rate) == (9, 7, 1)


def test_loading_again_replaces_everything(tmp_path):
    load_text(tmp_path, RUN, "palm.PaLM.depth=9")
    load_text(tmp_path, RUN)
    assert load.bound_call(train)[0].depth == 2


def test_the_operative_config_loads_back_to_the_same_values(tmp_path):
    load_text(tmp_path, RUN + "palm.PaLM.sizes = (1, 2)\n", "STEPS=11")
    before = load.bound_call(train)
    saved = load.operative_config()
    assert "toy.palm.train.rate = 0.1" in saved and "toy.palm.train.steps = %STEPS" in saved
    load_text(tmp_path, saved)
    assert load.bound_call(train) == before
    assert load.operative_config() == saved


def test_in_a_scope_holds_what_is_bound_there_over_what_is_bound_everywhere(tmp_path):
    load_text(tmp_path, SCOPED, "small/palm.PaLM.sizes=(3,)")
    model, *_, models = load.bound_call(train)
    found = [(m.dim, m.depth, m.norm, m.sizes) for m in (model, *models)]
    assert found == [(8, 2, "rms", ()), (8, 1, "rms", (3,)), (64, 2, "rms", ())]
    assert all(type(m) is PaLM for m in models)
    saved = load.operative_config()
    load_text(tmp_path, saved)
    assert load.bound_call(train)[-1] == models


def test_a_reference_is_made_in_the_scope_of_what_holds_it(tmp_path):
    text = (
        RUN
        + """\
palm.train.files = @inner/palm.hold()
palm.hold.held = @palm.PaLM()
inner/palm.PaLM.depth = 7
"""
    )
    load_text(tmp_path, text)
    model, *_, held = load.bound_call(train)
    assert (model.depth, held.depth) == (2, 7)


def test_what_a_macro_makes_is_made_in_no_scope_but_the_macros(tmp_path):
    text = (
        HEAD
        + """\
MODEL = @palm.PaLM()
palm.train.steps = 1
palm.train.model = %MODEL
"""
    )
    with pytest.raises(UserError, match=r"@palm.PaLM\(\) lacks dim; bind palm.PaLM.dim"):
        load_text(tmp_path, text)
    load_text(tmp_path, text, "palm.PaLM.dim=2")
    load.bound_call(train)
    saved = load.operative_config()
    assert "MODEL/toy.palm.PaLM.dim = 2" in saved
    load_text(tmp_path, saved)
    assert load.bound_call(train)[0].dim == 2


def test_a_call_that_lacks_parameters_names_them(tmp_path):
    load_text(tmp_path, HEAD)
    with pytest.raises(UserError, match="train lacks model, steps; bind"):
        load.bound_call(train)


def test_an_error_raised_while_building_arrives_as_it_was_raised(tmp_path):
    load_text(tmp_path, RUN + "palm.train.files = @palm.refuse()\n")
    with pytest.raises(CorruptionError) as caught:
        load.bound_call(train)
    assert type(caught.value) is CorruptionError and str(caught.value) == "heads = 3 is odd"


def test_a_refused_configuration_leaves_the_loaded_one(tmp_path):
    load_text(tmp_path, RUN)
    with pytest.raises(UserError):
        load_text(tmp_path, RUN, "STEP=1")
    assert load.bound_call(train)[1] == 5


QUICKSTART = "configs/runs/quickstart.gin"


def test_a_file_that_imports_present_paths_is_one_with_short_names(tmp_path):
    lines = f"include '{QUICKSTART}'\n{{}}PaLM.dim = 64\n{{}}PaLM.remat = 'none'\n"
    path = write(tmp_path, "from palmscale.model import palm\n" + lines.format("palm.", "palm."))
    imported = load.load_run(path)
    assert load.load_run(write(tmp_path, lines.format("", ""))) == imported
    assert imported.model.dim == 64


def test_the_stored_configuration_needs_no_import_and_is_the_same_run():
    run = load.load_run(QUICKSTART, ["SAMPLE_PROMPT='two\\nlines'"])
    saved = load.operative_config()
    assert "import" not in saved.replace("Data.import_modules = ()", "")
    pathlib.Path("config.gin").write_text(saved)
    assert load.load_run("config.gin") == run
    assert load.operative_config() == saved


def test_a_users_modules_are_imported_wherever_text_is_read(tmp_path):
    path = write(tmp_path, f"import toy.palm\ninclude '{QUICKSTART}'\n")
    assert load.load_run(path).data.import_modules == ("toy.palm",)
    assert load.load_data(path).import_modules == ("toy.palm",)
    assert load.load_run(QUICKSTART).data.import_modules == ()


def test_a_corpus_alone_is_data():
    data = load.load_data("configs/data/text.gin", ["TEXT_FILES=my/*.txt"])
    assert data.corpus.source.files == "my/*.txt"


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        ("MeshSpec.data", "DATA"),
        ("Training.steps", "TRAIN_STEPS"),
        ("TextFiles.files", "TEXT_FILES"),
        ("PaLM.dim", "PaLM.dim"),  # the size file binds a number
        ("SpikePolicy.deviations", "SpikePolicy.deviations"),  # nothing binds it
    ],
)
def test_a_field_is_known_by_the_macro_that_sets_it(field, setting):
    assert load.setting_of(field) == field  # nothing is loaded
    load.load_run(QUICKSTART)
    assert load.setting_of(field) == setting


def test_no_file_is_a_mistake():
    with pytest.raises(UserError, match="no gin file; add --gin_file="):
        load.load_run([])


def test_a_run_needs_no_gin():
    code = "import sys, palmscale.run.run; assert 'gin' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
