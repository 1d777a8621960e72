"""What gin accepts in silence is refused in one line."""

import pytest
from toy_config import HEAD, RUN, SCOPED, load_text, train

from palmscale.cli.config import load
from palmscale.errors import UserError


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "palm.PaLM.depth = '5'",
            r"run.gin:7: palm.PaLM.depth = '5' .* expected int; write palm.PaLM.depth = 5",
        ),
        (
            "STEPS = 1e3",
            r"run.gin:7: STEPS = 1000.0 .* palm.train.steps needs int; write STEPS = 1000",
        ),
        ("palm.PaLM.sizes = 5", r"expected tuple\[int, ...\]; write palm.PaLM.sizes = \(5,\)"),
        ("palm.PaLM.depth = None", "palm.PaLM.depth = None .* expected int"),
        ("palm.PaLM.depth = True", "expected int"),
        ("palm.train.model = 'palm'", "expected Module"),
        ("palm.train.mesh = @palm.PaLM()", "expected MeshSpec or None"),
        (
            "A = '5'\nB = %A\npalm.PaLM.depth = %B",
            r"run.gin:7: A = '5' .* palm.PaLM.depth needs int; write A = 5",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_the_type_that_is_needed(tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        load_text(tmp_path, RUN + more + "\n")


@pytest.mark.parametrize(
    "more", ["palm.train.rate = 1", "palm.PaLM.norm = None", "palm.PaLM.dtype = 'bfloat16'"]
)
def test_an_int_is_a_float_and_none_is_optional(tmp_path, more):
    load_text(tmp_path, RUN + more + "\n")
    load.bound_call(train)


def test_every_required_macro_is_named_at_once(tmp_path):
    text = RUN + "FILES = %gin.REQUIRED\nDIM = %gin.REQUIRED\npalm.train.files = %FILES\n"
    with pytest.raises(
        UserError, match=r"DIM, FILES must be set; add --gin.DIM=... --gin.FILES=..."
    ):
        load_text(tmp_path, text)
    load_text(tmp_path, text, "DIM=4", "FILES=x")


def test_a_macro_that_something_overrides_is_refused_on_the_command_line_only(tmp_path):
    text = RUN + "palm.train.steps = 9\n"
    load_text(tmp_path, text)
    with pytest.raises(
        UserError,
        match=r"--gin.STEPS=3: STEPS has no effect: palm.train.steps \(run.gin:7\) replaces what"
        " uses it;"
        " leave STEPS out, or change palm.train.steps",
    ):
        load_text(tmp_path, text, "STEPS=3")


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
    load_text(tmp_path, LEFT_ASIDE)
    with pytest.raises(UserError, match="has no effect: palm.train.files .run.gin:11. replaces"):
        load_text(tmp_path, LEFT_ASIDE, binding)
    load_text(tmp_path, LEFT_ASIDE, binding, "palm.train.files=@palm.hold()")


def test_a_field_of_a_class_that_the_run_does_not_use_is_refused_on_the_command_line(tmp_path):
    with pytest.raises(UserError, match="palm.hold.held has no effect: nothing in this run uses"):
        load_text(tmp_path, RUN, "palm.hold.held=1")
    load_text(tmp_path, RUN, "palm.hold.held=1", "palm.train.files=@palm.hold()")


def test_what_is_left_aside_may_lack_parameters(tmp_path):
    load_text(tmp_path, RUN + "palm.train.files = @palm.hold()\npalm.train.files = ()\n")


def test_a_macro_that_nothing_needs_ends_in_no_endless_search(tmp_path):
    with pytest.raises(UserError, match="A=1: A has no effect: nothing in this run uses it; "):
        load_text(tmp_path, RUN + "A = 5\nB = (%A, %C)\nC = %B\n", "A=1")


def test_a_reference_that_lacks_parameters_is_refused_before_anything_is_built(tmp_path):
    text = HEAD + "palm.train.steps = 1\npalm.train.model = @palm.PaLM()\n"
    with pytest.raises(UserError, match=r"run.gin:3: @palm.PaLM\(\) lacks dim; bind palm.PaLM.dim"):
        load_text(tmp_path, text)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "lagre/palm.PaLM.dim = 4",
            r"run.gin:11: nothing is made in the scope lagre; did you mean large\?",
        ),
        ("large/palm.PaLM.dmi = 4", r"run.gin:11: palm.PaLM has no parameter dmi"),
        ("large/palm.PaLM.dim = '4'", r"large/palm.PaLM.dim = '4' has the wrong type"),
        ("palm.train.mesh = @small/palm.Mesh()", "unknown name palm.Mesh"),
    ],
)
def test_a_mistake_in_a_scope_is_refused(tmp_path, more, message):
    with pytest.raises(UserError, match=message) as caught:
        load_text(tmp_path, SCOPED + more + "\n")
    assert "\n" not in str(caught.value)


def test_a_scope_may_be_left_unused_where_what_names_it_is_overridden(tmp_path):
    load_text(tmp_path, SCOPED + "palm.train.files = (@small/palm.PaLM(),)\n")
    assert len(load.bound_call(train)[-1]) == 1


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
        UserError, match=r"run.gin:4: @large/palm.PaLM\(\) lacks dim; bind large/palm.PaLM.dim"
    ):
        load_text(tmp_path, text)
    load_text(tmp_path, text, "large/palm.PaLM.dim=2")
    assert load.bound_call(train)[0].dim == 1


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("DIM=64", "unknown macro DIM; did you mean PaLM.dim?"),
        ("VOCAB_SIZE=300", "unknown macro VOCAB_SIZE; did you mean NUM_TOKENS?"),
        ("LEARNING_RATES=1", "did you mean LEARNING_RATE?"),
        ("XYZZY=1", "unknown macro XYZZY; `palmscale explain --settings` lists all"),
        ("PaLM.hidden_size=3", "PaLM has no parameter hidden_size; did you mean dim?"),
        ("Training.max_steps=3", "Training has no parameter max_steps; did you mean steps?"),
    ],
)
def test_an_unknown_name_is_answered_by_what_it_means(binding, message):
    with pytest.raises(UserError) as refused:
        load.load("configs/runs/quickstart.gin", [binding])
    assert message in str(refused.value)
