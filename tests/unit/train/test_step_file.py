import time

import jax
import jax.numpy as jnp
import pytest

from palmscale.errors import UserError
from palmscale.storage.place import place
from palmscale.train.compile import digest
from palmscale.train.step_file import load_step, save_step

VERSIONS = {"jax": "1"}


# What comes out of the compilation cache cannot be saved again: another program each time.
SALT = time.time_ns() % 2**16


def step(state, batch):
    return {"w": state["w"] * 2 + batch + SALT}, {"loss": jnp.sum(batch)}


LOWERED = jax.jit(step).lower({"w": jnp.zeros(3)}, jnp.zeros(3))


@pytest.fixture
def saved(tmp_path):
    path = place(tmp_path / "step")
    save_step(path, LOWERED.compile(), digest=digest(LOWERED), versions=VERSIONS)
    return path


def load(path, **changes):
    return load_step(path, LOWERED, **{"digest": digest(LOWERED), "versions": VERSIONS} | changes)


def test_a_saved_step_computes_the_same(saved):
    state, batch = {"w": jnp.arange(3.0)}, jnp.ones(3)
    new, metrics = load(saved)(state, batch)
    assert new["w"].tolist() == [SALT + 1.0, SALT + 3.0, SALT + 5.0] and metrics["loss"] == 3.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"digest": "other"}, "was compiled for another step .the digest of its program differs"),
        ({"versions": {"jax": "2"}}, "was compiled for jax 1 .here: 2"),
        ({"versions": {"jax": "1", "libtpu": "3"}}, "libtpu None .here: 3"),
    ],
)
def test_what_it_was_not_made_for_is_named(saved, changes, says):
    with pytest.raises(UserError, match=says):
        load(saved, **changes)


def test_no_file_another_file_and_half_a_file_are_told_apart(saved, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load(place(tmp_path / "nothing"))
    other = tmp_path / "other"
    other.write_bytes(b"PK something else")
    with pytest.raises(UserError, match="is not a compiled step"):
        load(place(other))
    saved.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(UserError, match="does not load here"):
        load(saved)
