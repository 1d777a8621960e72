"""What is known of a run, in the forms that others read."""

import jax
from jax.sharding import Mesh

import palmscale
from palmscale.cli.facts import flat, mesh_text, versions


def test_a_nested_value_is_its_leaves_by_dotted_names():
    value = {"model": {"class": "PaLM", "dims": [1, 2]}, "seed": 0}
    assert flat(value) == [("model.class", "PaLM"), ("model.dims", [1, 2]), ("seed", 0)]
    assert flat(3) == [("", 3)]


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["jax"] == jax.__version__ and found["palmscale"] == palmscale.__version__
    assert all(version[0].isdigit() for version in found.values())


def test_a_mesh_is_told_by_its_axes_that_are_longer_than_one():
    device = jax.devices()[:1]
    assert mesh_text(Mesh([device], ("data", "model"))) == "1 cpu device(s), one of each"
