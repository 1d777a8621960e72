import jax

import palmscale
from palmscale.run.versions import compiler_versions, versions


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["jax"] == jax.__version__ and found["palmscale"] == palmscale.__version__
    assert all(version[0].isdigit() for version in found.values())


def test_the_compilers_are_jaxs_and_libtpu_where_it_is_installed():
    assert {"jax", "jaxlib"} <= compiler_versions().keys() <= {"jax", "jaxlib", "libtpu"}
    assert compiler_versions().items() <= versions().items()  # as plans and checkpoints store them
