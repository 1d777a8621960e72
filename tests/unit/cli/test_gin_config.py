import dataclasses
import sys
import textwrap
import types
from typing import Any

import flax.linen as nn
import pytest

from palmscale.cli import gin_config
from palmscale.errors import CorruptionError, UserError


class PaLM(nn.Module):
    dim: int
    depth: int = 2
    norm: str | None = None
    sizes: tuple[int, ...] = ()
    dtype: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    data: int = -1
    model: int = 1


def train(
    model: nn.Module,
    *,
    steps: int,
    rate: float = 0.1,
    mesh: MeshSpec | None = None,
    files: Any = (),
):
    return model, steps, rate, mesh, files


def hold(held: Any):
    return held


def refuse(heads: int = 3):
    raise CorruptionError(f"heads = {heads} is odd")


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """A module `toy.palm` to configure, in an empty current directory."""
    palm = types.ModuleType("toy.palm")
    for thing in (PaLM, MeshSpec, train, hold, refuse):
        setattr(palm, thing.__name__, thing)
    package = types.ModuleType("toy")
    package.palm, package.__path__ = palm, []
    monkeypatch.setitem(sys.modules, "toy", package)
    monkeypatch.setitem(sys.modules, "toy.palm", palm)
    monkeypatch.chdir(tmp_path)
    gin_config.reset()
    yield
    gin_config.reset()


HEAD = """\
from __gin__ import dynamic_registration
from toy import palm
"""
RUN = (
    HEAD
    + """\
STEPS = 5
DIM = 8
palm.PaLM.dim = %DIM
palm.train.model = @palm.PaLM()
palm.train.steps = %STEPS
"""
)


def _write(tmp_path, text, name="run.gin"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return name


def _load(tmp_path, text, *bindings):
    gin_config.load([_write(tmp_path, text)], bindings)


def test_a_module_is_built_from_its_bindings_and_is_of_its_own_class(tmp_path):
    _load(
        tmp_path,
        RUN + "palm.train.mesh = @palm.MeshSpec()\npalm.MeshSpec:\n  data = 4\n  model = 2\n",
    )
    model, steps, rate, mesh, _ = gin_config.bound_call(train)
    assert type(model) is PaLM and (model.dim, model.depth) == (8, 2)
    assert type(mesh) is MeshSpec and mesh == MeshSpec(data=4, model=2)
    assert (steps, rate) == (5, 0.1)


def test_plain_python_is_not_configured(tmp_path):
    _load(tmp_path, RUN)
    with pytest.raises(TypeError, match="dim"):
        PaLM()
    assert PaLM(dim=3).dim == 3


def test_the_command_line_wins_over_files_and_keywords_over_both(tmp_path):
    _load(tmp_path, RUN, "STEPS=7", "palm.PaLM.depth=9", "palm.train.rate=1")
    model, steps, rate, *_ = gin_config.bound_call(train, rate=0.5)
    assert (model.depth, steps, rate) == (9, 7, 0.5)


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
    _load(tmp_path, RUN + "FILES = ''\npalm.train.files = %FILES\n", f"FILES={written}")
    assert gin_config.bound_call(train)[-1] == value


def test_loading_again_replaces_everything(tmp_path):
    _load(tmp_path, RUN, "palm.PaLM.depth=9")
    _load(tmp_path, RUN)
    assert gin_config.bound_call(train)[0].depth == 2


def test_the_operative_config_loads_back_to_the_same_values(tmp_path):
    _load(tmp_path, RUN + "palm.PaLM.sizes = (1, 2)\n", "STEPS=11")
    before = gin_config.bound_call(train)
    saved = gin_config.operative_config()
    assert "palm.train.rate = 0.1" in saved and "palm.train.steps = %STEPS" in saved
    _load(tmp_path, saved)
    assert gin_config.bound_call(train) == before
    assert gin_config.operative_config() == saved


def test_includes_are_found_from_each_search_path_and_keep_their_order(tmp_path):
    _write(tmp_path, RUN, "root/configs/base.gin")
    _write(tmp_path, "DIM = 16\n", "configs/size.gin")
    text = "include 'configs/base.gin'\ninclude 'configs/size.gin'\nSTEPS = 6\n"
    gin_config.load([_write(tmp_path, text)], search_paths=[".", "root"])
    model, steps, *_ = gin_config.bound_call(train)
    assert (model.dim, steps) == (16, 6)


def test_an_import_belongs_to_its_own_file(tmp_path):
    _write(tmp_path, RUN, "base.gin")
    with pytest.raises(UserError, match=r"run.gin:2: unknown name palm.PaLM; import its module"):
        _load(tmp_path, "include 'base.gin'\npalm.PaLM.depth = 3\n")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("palm.PaLM.dmi = 4", r"run.gin:8: palm.PaLM has no parameter dmi; did you mean dim\?"),
        ("palm.Palm.dim = 4", r"run.gin:8: unknown name palm.Palm; did you mean palm.PaLM\?"),
        ("plam.PaLM.dim = 4", r"unknown name plam.PaLM; did you mean palm.PaLM\?"),
        ("palm.Palm:\n  dim = 4", r"run.gin:8: unknown name palm.Palm"),
        ("palm.train.mesh = @palm.Mesh()", r"did you mean palm.MeshSpec\?"),
        (
            "palm.PaLM.depth = %DEPHT\nDEPTH = 3",
            r"run.gin:8: unknown macro %DEPHT; did you mean DEPTH\?",
        ),
        ("STEP = 5", r"run.gin:8: unknown macro STEP; did you mean STEPS\?"),
        ("steps = 5", r"unknown macro steps; did you mean STEPS\?"),
        ("A = %A\npalm.PaLM.depth = %A", "run.gin:8: A is defined by itself"),
        ("import toy.plam", "run.gin:8: cannot import toy.plam"),
        ("palm.PaLM.depth = ", "run.gin:8: cannot read 'palm.PaLM.depth ='"),
        ("palm.PaLM.depth 4", "run.gin:8: cannot read"),
        ("palm.PaLM.sizes = (1,", "not closed"),
        ("include 'run.gin'", "run.gin:8: run.gin includes itself"),
        ("include 'other.gin'", "run.gin:8: no file other.gin in .*"),
    ],
)
def test_a_mistake_in_a_file_names_its_place_and_the_nearest_name(tmp_path, more, message):
    with pytest.raises(UserError, match=message) as caught:
        _load(tmp_path, RUN + more + "\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("STEP=5", r"--gin.STEP=5: unknown macro STEP; did you mean STEPS\?"),
        ("PaLM.dim=5", r"--gin.PaLM.dim=5: unknown name PaLM; did you mean palm.PaLM\?"),
        ("palm.PaLM.dmi=5", r"did you mean dim\?"),
        (
            "STEPS=five",
            "--gin.STEPS=five: STEPS = 'five' has the wrong type - int is needed by palm",
        ),
        ("STEPS=(1,", "--gin"),
        ("STEPS=", "--gin.STEPS=: cannot read"),
    ],
)
def test_a_mistake_on_the_command_line_quotes_the_flag(tmp_path, binding, message):
    with pytest.raises(UserError, match=message) as caught:
        _load(tmp_path, RUN, binding)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "palm.PaLM.depth = '5'",
            r"run.gin:8: palm.PaLM.depth = '5' .* int is needed - write palm.PaLM.depth = 5",
        ),
        (
            "STEPS = 1e3",
            r"run.gin:8: STEPS = 1000.0 .* int is needed by palm.train.steps - write STEPS = 1000",
        ),
        ("palm.PaLM.sizes = 5", r"tuple\[int, ...\] is needed - write palm.PaLM.sizes = \(5,\)"),
        ("palm.PaLM.depth = None", "palm.PaLM.depth = None .* int is needed"),
        ("palm.PaLM.depth = True", "int is needed"),
        ("palm.train.model = 'palm'", "Module is needed"),
        ("palm.train.mesh = @palm.PaLM()", "MeshSpec or None is needed"),
        (
            "A = '5'\nB = %A\npalm.PaLM.depth = %B",
            r"run.gin:8: A = '5' .* int is needed by palm.PaLM.depth - write A = 5",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_the_type_that_is_needed(tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        _load(tmp_path, RUN + more + "\n")


@pytest.mark.parametrize(
    "more", ["palm.train.rate = 1", "palm.PaLM.norm = None", "palm.PaLM.dtype = 'bfloat16'"]
)
def test_an_int_is_a_float_and_none_is_optional(tmp_path, more):
    _load(tmp_path, RUN + more + "\n")
    gin_config.bound_call(train)


def test_every_required_macro_is_named_at_once(tmp_path):
    text = RUN + "FILES = %gin.REQUIRED\nDIM = %gin.REQUIRED\npalm.train.files = %FILES\n"
    with pytest.raises(
        UserError, match=r"DIM, FILES must be set - add --gin.DIM=... --gin.FILES=..."
    ):
        _load(tmp_path, text)
    _load(tmp_path, text, "DIM=4", "FILES=x")


def test_a_macro_that_something_overrides_is_refused_on_the_command_line_only(tmp_path):
    text = RUN + "palm.train.steps = 9\n"
    _load(tmp_path, text)
    with pytest.raises(
        UserError,
        match=r"--gin.STEPS=3: STEPS has no effect - palm.train.steps \(run.gin:8\) takes the place"
        " of what uses it - leave STEPS out, or change palm.train.steps",
    ):
        _load(tmp_path, text, "STEPS=3")


LEFT_ASIDE = (
    RUN
    + """\
FILES = ('a',)
SOURCE = @palm.hold()
palm.hold.held = %FILES
palm.train.files = %SOURCE
palm.train.files = @palm.MeshSpec()
"""
)


@pytest.mark.parametrize("binding", ["FILES=('b',)", "palm.hold.held=1"])
def test_what_serves_only_something_left_aside_is_refused_on_the_command_line(tmp_path, binding):
    _load(tmp_path, LEFT_ASIDE)
    with pytest.raises(UserError, match="has no effect - palm.train.files .run.gin:12. takes the"):
        _load(tmp_path, LEFT_ASIDE, binding)
    _load(tmp_path, LEFT_ASIDE, binding, "palm.train.files=@palm.hold()")


def test_what_is_left_aside_may_lack_parameters(tmp_path):
    _load(tmp_path, RUN + "palm.train.files = @palm.hold()\npalm.train.files = ()\n")


def test_a_macro_that_nothing_needs_ends_in_no_endless_search(tmp_path):
    with pytest.raises(UserError, match="A=1: A has no effect - nothing in this run uses it - "):
        _load(tmp_path, RUN + "A = 5\nB = (%A, %C)\nC = %B\n", "A=1")


def test_a_reference_that_lacks_parameters_is_refused_before_anything_is_built(tmp_path):
    text = HEAD + "palm.train.steps = 1\npalm.train.model = @palm.PaLM()\n"
    with pytest.raises(
        UserError, match=r"run.gin:4: @palm.PaLM\(\) lacks dim - bind palm.PaLM.dim"
    ):
        _load(tmp_path, text)


SCOPED = (
    RUN
    + """\
palm.train.files = (@small/palm.PaLM(), @large/palm.PaLM())
palm.PaLM.norm = 'rms'
large/palm.PaLM.dim = 64
small/palm.PaLM.depth = 1
"""
)


def test_in_a_scope_holds_what_is_bound_there_over_what_is_bound_everywhere(tmp_path):
    _load(tmp_path, SCOPED, "small/palm.PaLM.sizes=(3,)")
    model, *_, models = gin_config.bound_call(train)
    found = [(m.dim, m.depth, m.norm, m.sizes) for m in (model, *models)]
    assert found == [(8, 2, "rms", ()), (8, 1, "rms", (3,)), (64, 2, "rms", ())]
    assert all(type(m) is PaLM for m in models)
    saved = gin_config.operative_config()
    _load(tmp_path, saved)
    assert gin_config.bound_call(train)[-1] == models


def test_a_reference_is_made_in_the_scope_of_what_holds_it(tmp_path):
    text = (
        RUN
        + """\
palm.train.files = @inner/palm.hold()
palm.hold.held = @palm.PaLM()
inner/palm.PaLM.depth = 7
"""
    )
    _load(tmp_path, text)
    model, *_, held = gin_config.bound_call(train)
    assert (model.depth, held.depth) == (2, 7)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "lagre/palm.PaLM.dim = 4",
            r"run.gin:12: nothing is made in the scope lagre; did you mean large\?",
        ),
        ("large/palm.PaLM.dmi = 4", r"run.gin:12: palm.PaLM has no parameter dmi"),
        ("large/palm.PaLM.dim = '4'", r"large/palm.PaLM.dim = '4' has the wrong type"),
        ("palm.train.mesh = @small/palm.Mesh()", "unknown name palm.Mesh"),
    ],
)
def test_a_mistake_in_a_scope_is_refused(tmp_path, more, message):
    with pytest.raises(UserError, match=message) as caught:
        _load(tmp_path, SCOPED + more + "\n")
    assert "\n" not in str(caught.value)


def test_a_scope_may_be_left_unused_where_what_names_it_is_overridden(tmp_path):
    _load(tmp_path, SCOPED + "palm.train.files = (@small/palm.PaLM(),)\n")
    assert len(gin_config.bound_call(train)[-1]) == 1


def test_a_reference_is_complete_only_with_what_is_bound_in_its_own_scope(tmp_path):
    text = (
        HEAD
        + """\
palm.train.steps = 1
palm.train.model = @small/palm.PaLM()
palm.train.files = @large/palm.PaLM()
small/palm.PaLM.dim = 1
"""
    )
    with pytest.raises(
        UserError, match=r"run.gin:5: @large/palm.PaLM\(\) lacks dim - bind large/palm.PaLM.dim"
    ):
        _load(tmp_path, text)
    _load(tmp_path, text, "large/palm.PaLM.dim=2")
    assert gin_config.bound_call(train)[0].dim == 1


def test_what_a_macro_makes_is_made_in_no_scope_but_the_macros(tmp_path):
    text = (
        HEAD
        + """\
MODEL = @palm.PaLM()
palm.train.steps = 1
palm.train.model = %MODEL
"""
    )
    with pytest.raises(UserError, match=r"@palm.PaLM\(\) lacks dim - bind palm.PaLM.dim"):
        _load(tmp_path, text)
    _load(tmp_path, text, "palm.PaLM.dim=2")
    gin_config.bound_call(train)
    saved = gin_config.operative_config()
    assert "MODEL/palm.PaLM.dim = 2" in saved
    _load(tmp_path, saved)
    assert gin_config.bound_call(train)[0].dim == 2


def test_a_call_that_lacks_parameters_names_them(tmp_path):
    _load(tmp_path, HEAD)
    with pytest.raises(UserError, match="train lacks model, steps - bind"):
        gin_config.bound_call(train)


def test_a_missing_file_names_where_it_was_looked_for_and_near_ones(tmp_path):
    _write(tmp_path, RUN, "configs/runs/quickstart.gin")
    with pytest.raises(
        UserError,
        match=r"--gin_file: no file quickstrat.gin in .*did you mean configs/runs/quickstart.gin\?",
    ):
        gin_config.load(["quickstrat.gin"])
    with pytest.raises(UserError, match=r"did you mean configs/runs/quickstart.gin\?"):
        gin_config.load(["configs/run/quickstart.gin"])


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "run.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read run.gin"):
        gin_config.load(["run.gin"])


def test_an_error_raised_while_building_arrives_as_it_was_raised(tmp_path):
    _load(tmp_path, RUN + "palm.train.files = @palm.refuse()\n")
    with pytest.raises(CorruptionError) as caught:
        gin_config.bound_call(train)
    assert type(caught.value) is CorruptionError and str(caught.value) == "heads = 3 is odd"


def test_a_refused_configuration_leaves_the_loaded_one(tmp_path):
    _load(tmp_path, RUN)
    with pytest.raises(UserError):
        _load(tmp_path, RUN, "STEP=1")
    assert gin_config.bound_call(train)[1] == 5
