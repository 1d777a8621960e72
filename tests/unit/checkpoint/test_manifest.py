import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from palmscale.checkpoint.manifest import Manifest, check_room_for, stored_arrays
from palmscale.errors import CorruptionError
from palmscale.storage.typed_json import misfit

STEP = pathlib.Path("run/checkpoints/4")
MANIFEST = {
    "step": 4,
    "time": 1.5,
    "metrics": {"eval_loss": 2.5},
    "arrays": {"params": {"w": {"shape": [2, 3], "dtype": "float32", "fingerprint": "0a"}}},
    "files": {
        "params/d/a": {"bytes": 24, "sha256": "0b"},
        "meta.json": {"bytes": 99, "sha256": ""},
    },
}


def test_a_manifest_of_the_form_is_one():
    assert misfit(MANIFEST, Manifest) is None
    assert misfit({"files": {}}, Manifest) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": None}, "files is None"),
        ({"files": {"a": {"bytes": -1, "sha256": ""}}}, "files.a.bytes is -1"),
        ({"files": {"a": {"bytes": 1}}}, "files.a.sha256 is None"),
        ({"time": 1e300}, "time is 1e[+]300"),
        ({"metrics": {"loss": "low"}}, "metrics.loss is 'low'"),
        ({"arrays": {"params": {"w": {"shape": [-1], "dtype": "", "fingerprint": None}}}}, "shape"),
    ],
    ids=str,
)
def test_what_a_manifest_cannot_state_is_told(change, told):
    assert re.search(told, misfit(MANIFEST | change, Manifest))


def test_arrays_that_it_does_not_state_are_named():
    assert stored_arrays(MANIFEST, "params", STEP) == MANIFEST["arrays"]["params"]
    for manifest, item in ((MANIFEST, "optimizer"), ({"files": {}}, "params")):
        with pytest.raises(CorruptionError, match=f"checkpoints/4 states no arrays of {item}"):
            stored_arrays(manifest, item, STEP)


def test_arrays_need_files_that_hold_them():
    room = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    check_room_for(room, MANIFEST, "params", STEP)
    check_room_for({}, MANIFEST, "optimizer", STEP)
    for name, shape, item in (("w", (7,), "params"), ("w", (10**30,), "params"), ("w", (1,), "p")):
        wanted = {name: jax.ShapeDtypeStruct(shape, jnp.float32)}
        with pytest.raises(CorruptionError, match=f"{item} has .* bytes, but its arrays take"):
            check_room_for(wanted, MANIFEST, item, STEP)
