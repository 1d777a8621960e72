"""Files are found, included and read, and a mistake names its place."""

import pytest
from toy_config import RUN, load_text, train, write

from palmscale.cli.config import load
from palmscale.errors import UserError


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("my/*.txt", "my/*.txt"),
        ("'my/*.txt'", "my/*.txt"),
        ("two words", "two words"),
        ("a=b", "a=b"),
        ("('a', 'b')", ("a", "b")),
        ("5k", "5k"),
        ("-3", -3),
        ("None", None),
        ("/x/y.txt", "/x/y.txt"),
    ],
)
def test_a_bare_word_on_the_command_line_is_a_string(tmp_path, written, value):
    load_text(tmp_path, RUN + "FILES = ''\npalm.train.files = %FILES\n", f"FILES={written}")
    assert load.bound_call(train)[-1] == value


def test_includes_are_found_from_each_search_path_and_keep_their_order(tmp_path):
    write(tmp_path, RUN, "root/configs/base.gin")
    write(tmp_path, "DIM = 16\n", "configs/size.gin")
    text = "include 'configs/base.gin'\ninclude 'configs/size.gin'\nSTEPS = 6\n"
    load.load([write(tmp_path, text)], search_paths=[".", "root"])
    model, steps, *_ = load.bound_call(train)
    assert (model.dim, steps) == (16, 6)


def test_an_import_belongs_to_its_own_file(tmp_path):
    write(tmp_path, RUN, "base.gin")
    with pytest.raises(UserError, match=r"run.gin:2: unknown name palm.PaLM; did you mean PaLM\?"):
        load_text(tmp_path, "include 'base.gin'\npalm.PaLM.depth = 3\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("palm.PaLM.dmi = 4", r"run.gin:7: palm.PaLM has no parameter dmi; did you mean dim\?"),
        ("palm.Palm.dim = 4", r"run.gin:7: unknown name palm.Palm; did you mean palm.PaLM\?"),
        ("plam.PaLM.dim = 4", r"unknown name plam.PaLM; did you mean palm.PaLM\?"),
        ("palm.Palm:\n  dim = 4", r"run.gin:7: unknown name palm.Palm"),
        ("palm.train.mesh = @palm.Mesh()", r"did you mean palm.MeshSpec\?"),
        ("palm.PaLM.depth.a.b = 4", r"run.gin:7: unknown name palm.PaLM.depth.a$"),
        (
            "palm.PaLM.depth = %DEPHT\nDEPTH = 3",
            r"run.gin:7: unknown macro %DEPHT; did you mean DEPTH\?",
        ),
        ("STEP = 5", r"run.gin:7: unknown macro STEP; did you mean STEPS\?"),
        ("steps = 5", r"unknown macro steps; did you mean STEPS\?"),
        ("A = %A\npalm.PaLM.depth = %A", "run.gin:7: A is defined by itself"),
        ("import toy.plam", "run.gin:7: cannot import toy.plam"),
        ("palm.PaLM.depth = ", "run.gin:7: cannot read 'palm.PaLM.depth ='"),
        ("palm.PaLM.depth 4", "run.gin:7: cannot read"),
        ("palm.PaLM.sizes = (1,", "not closed"),
        ("include 'run.gin'", "run.gin:7: run.gin includes itself"),
        ("include 'other.gin'", "run.gin:7: no file other.gin in .*"),
    ],
)
def test_a_mistake_in_a_file_names_its_place_and_the_nearest_name(tmp_path, more, message):
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path, RUN + more + "\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("STEP=5", r"--gin.STEP=5: unknown macro STEP; did you mean STEPS\?"),
        ("Plam.dim=5", r"--gin.Plam.dim=5: unknown name Plam; did you mean PaLM\?"),
        ("palm.PaLM.dmi=5", r"did you mean dim\?"),
        (
            "STEPS=five",
            "--gin.STEPS=five: STEPS = 'five' has the wrong type; palm.train.steps needs int",
        ),
        ("STEPS=(1,", "--gin"),
        ("STEPS=", "--gin.STEPS=: cannot read"),
    ],
)
def test_a_mistake_on_the_command_line_quotes_the_flag(tmp_path, binding, message):
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path, RUN, binding)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_where_it_was_looked_for_and_near_ones(tmp_path):
    write(tmp_path, RUN, "configs/runs/quickstart.gin")
    with pytest.raises(
        UserError,
        match=r"--gin_file: no file quickstrat.gin in .*did you mean configs/runs/quickstart.gin\?",
    ):
        load.load(["quickstrat.gin"])
    with pytest.raises(UserError, match=r"did you mean configs/runs/quickstart.gin\?"):
        load.load(["configs/run/quickstart.gin"])


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "run.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read run.gin"):
        load.load(["run.gin"])


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "run.gin").write_bytes(b"\xef\xbb\xbf" + RUN.encode())
    load.load(["run.gin"])
    assert load.bound_call(train)[1] == 5


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write(tmp_path, RUN, "home/base.gin")
    load_text(tmp_path, "include '~/base.gin'\nSTEPS = 6\n")
    assert load.bound_call(train)[1] == 6
    with pytest.raises(UserError, match="--gin_file: no file ~/none.gin"):
        load.load(["~/none.gin"])


def test_an_import_that_raises_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in {
        "raises": "raise ValueError('boom')",
        "exits": "import sys; sys.exit(3)",
        "broken": "def f(:",
    }.items():
        (tmp_path / f"that_{name}.py").write_text(code)
        with pytest.raises(UserError, match=f"run.gin:7: cannot import that_{name}: ") as caught:
            load_text(tmp_path, f"{RUN}import that_{name}\n")
        assert "\n" not in str(caught.value)
