"""Every parameter has its other, by name, and nothing is taken, left or cast by accident."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_state import flip_bit

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.store import CheckpointStore
from palmscale.checkpoint.warm_start import WarmStart, sources, warm_parameters
from palmscale.errors import UserError

STORED = ["decoder/0/attention/q", "decoder/0/attention/k", "decoder/1/attention/q", "head"]


def found(here, **fields):
    return sources(WarmStart(workdir="w", **fields), STORED, here)


def test_equal_names_need_nothing_said():
    assert found(STORED) == {name: name for name in STORED}


def test_a_pattern_renames_what_it_matches_and_its_stars_are_filled_in_order():
    here = ["layers/0/q", "layers/0/k", "layers/1/q", "head"]
    renamed = found(here, rename={"decoder/*/attention/*": "layers/*/*"})
    assert renamed == dict(zip(here, [STORED[0], STORED[1], STORED[2], STORED[3]], strict=True))


def test_the_first_rename_that_matches_counts():
    here = ["a", *STORED[1:]]
    assert found(here, rename={STORED[0]: "a", "decoder/*": "decoder/*"})["a"] == STORED[0]


def test_fresh_and_unused_ones_are_left_out():
    assert found([*STORED, "bias"], fresh=("b*",)) == found(STORED)
    assert "head" not in found(STORED[:3], unused=("head",))
    # One that begins anew though it is stored, such as the embedding of another vocabulary.
    assert "head" not in found(STORED, fresh=("head",))


@pytest.mark.parametrize(
    ("here", "fields", "answer"),
    [
        ([*STORED, "bias"], {}, "in this run but not stored: bias"),
        (STORED[:3], {}, "stored but not in this run: head"),
        (STORED, {"rename": {"head": "tail"}}, "stored but not in this run: head (as tail); in"),
        (STORED, {"unused": ("head",)}, "in this run but not stored: head"),
        (STORED, {"rename": {"encoder/*": "x/*"}}, "rename has encoder/*, which matches no"),
        (STORED, {"fresh": ("bias",)}, "fresh has bias, which matches no parameter; this run's"),
        (STORED, {"unused": ("x", "y")}, "unused has x, y, which matches no parameter; stored"),
        (STORED, {"rename": {STORED[0]: STORED[1]}}, f"both become {STORED[1]}"),
    ],
)
def test_whatever_is_not_named_is_a_mistake(here, fields, answer):
    with pytest.raises(UserError) as caught:
        found(here, **fields)
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"checkpoint": "last"}, "checkpoint='last'"),
        ({"rename": {"a/*": "b"}}, "use the same number of"),
    ],
)
def test_a_warm_start_that_cannot_be_is_refused(fields, answer):
    with pytest.raises(UserError, match=answer):
        WarmStart(workdir="w", **fields)


def values(step):
    return {"old": {"w": jnp.full((4, 2), step, jnp.float32)}, "s": jnp.full(3, step, jnp.bfloat16)}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The checkpoints of another run: steps 1 and 2. Not to be written to."""
    workdir = tmp_path_factory.mktemp("other")
    with Lease(workdir) as lease, CheckpointStore(workdir / "c", lease=lease) as store:
        for step in (1, 2):
            metrics = {"eval_loss": float(step)}
            save = {"params": values(step), "optimizer_state": {"m": jnp.ones(3)}, "cursor": {}}
            store.save(step, **save, meta={}, metrics=metrics)
    return workdir / "c"


def abstract(w=(4, 2), s=jnp.bfloat16):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {
        "new/w": jax.ShapeDtypeStruct(w, jnp.float32, sharding=device),
        "s": jax.ShapeDtypeStruct((3,), s, sharding=device),
    }


RENAME = {"old/*": "new/*"}


@pytest.mark.parametrize(("which", "step"), [("latest", 2), ("best", 1), (1, 1)])
def test_parameters_come_under_their_new_names_from_the_step_asked_for(which, step, other):
    warm = WarmStart(workdir="w", checkpoint=which, rename=RENAME)
    at, params = warm_parameters(warm, CheckpointReader(other), abstract())
    assert at == step and params.keys() == {"new/w", "s"}
    np.testing.assert_array_equal(params["new/w"], values(step)["old"]["w"])
    np.testing.assert_array_equal(params["s"], values(step)["s"])


def test_a_part_of_them_comes_alone(other):
    warm = WarmStart(workdir="w", rename=RENAME, unused=("s",), fresh=("s",))
    assert warm_parameters(warm, CheckpointReader(other), abstract())[1].keys() == {"new/w"}


def test_another_shape_or_dtype_is_named_and_never_cast(other):
    warm = WarmStart(workdir="w", rename=RENAME)
    with pytest.raises(UserError) as caught:
        warm_parameters(warm, CheckpointReader(other), abstract(w=(4, 3), s=jnp.float32))
    for part in ("new/w is float32[4, 2] in the checkpoint and float32[4, 3] in the model",
                 "s is bfloat16[3] in the checkpoint and float32[3] in the model"):  # fmt: skip
        assert part in str(caught.value)


def test_a_damaged_step_is_passed_over_and_left_as_it_is(other, tmp_path, caplog):
    copy = shutil.copytree(other, tmp_path / "c")
    flip_bit(copy / "2/meta.json")
    warm = WarmStart(workdir="w", rename=RENAME)
    assert warm_parameters(warm, CheckpointReader(copy), abstract())[0] == 1
    assert "meta.json is damaged" in caplog.text and (copy / "2/VERIFIED").exists()


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="WarmStart.workdir='w' has no checkpoint in "):
        warm_parameters(WarmStart(workdir="w"), CheckpointReader(tmp_path), abstract())
