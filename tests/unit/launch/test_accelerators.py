import math

import pytest
from tpu_pod.accelerators import tpu_type
from tpu_pod.errors import Mistake

from palmscale.plan.hardware import topology


@pytest.mark.parametrize(
    ("name", "flags", "runtime"),
    [
        ("v5e-256", ["--accelerator-type=v5litepod-256"], "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", ["--accelerator-type=v5litepod-16"], "v2-alpha-tpuv5-lite"),
        ("v5e:16x16", ["--accelerator-type=v5litepod-256"], "v2-alpha-tpuv5-lite"),
        ("v5p-128", ["--accelerator-type=v5p-128"], "v2-alpha-tpuv5"),
        ("V6E-8", ["--accelerator-type=v6e-8"], "v2-alpha-tpuv6e"),
        ("v6e:2x4", ["--accelerator-type=v6e-8"], "v2-alpha-tpuv6e"),
        ("v4-128", ["--accelerator-type=v4-128"], "tpu-ubuntu2204-base"),
        ("v4:4x4x8", ["--type=v4", "--topology=4x4x8"], "tpu-ubuntu2204-base"),
        ("v3-8", ["--accelerator-type=v3-8"], "tpu-ubuntu2204-base"),
    ],
)
def test_a_name_of_plan_or_gcloud_gives_the_flags_and_the_runtime_of_the_type(name, flags, runtime):
    found = tpu_type(name)
    assert (list(found.flags), found.track, found.runtime) == (flags, (), runtime)


def test_a_topology_may_stand_apart():
    assert tpu_type("v4", "4x4x4") == tpu_type("v4:4x4x4")


def test_topologies_of_v5p_are_known_to_the_alpha_track_alone():
    found = tpu_type("v5p:4x4x8")
    assert found.track == ("alpha",) and found.flags == ("--type=v5p", "--topology=4x4x8")


def test_a_given_runtime_replaces_the_one_of_the_type():
    assert tpu_type("v5e-8", runtime="mine").runtime == "mine"
    assert tpu_type("v9-8", runtime="mine").flags == ("--accelerator-type=v9-8",)


@pytest.mark.parametrize("chip", ["v5e", "v6e"])
def test_dims_on_a_flat_torus_are_the_size_that_plan_reads_back(chip):
    for side in (2, 4, 8, 16):
        (flag,) = tpu_type(f"{chip}:{side}x{side}").flags
        planned = topology.parse(flag.partition("=")[2])
        assert planned == topology.parse(f"{chip}:{side}x{side}")
        assert math.prod(planned.dims) == side * side


@pytest.mark.parametrize(
    ("name", "dims", "said"),
    [
        ("", "", "--type is missing"),
        ("v5e", "", "either a size or a topology"),
        ("v4-128", "4x4x4", "either a size or a topology"),
        ("v9-8", "", "--type=v9-8 is not known; expected v2, v3, v4"),
        ("tpu7x-8", "", "needs --runtime=VERSION"),
        ("v4:4x4", "", "does not have 3 dims"),
        ("v5e:4x4x4", "", "does not have 2 dims"),
        ("v4", "4x0x4", "topology 4x0x4"),
        ("8 chips", "", "is not known"),
    ],
)
def test_a_wrong_type_is_one_line(name, dims, said):
    with pytest.raises(Mistake, match=said):
        tpu_type(name, dims)
