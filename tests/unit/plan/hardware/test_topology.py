import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.errors import UserError
from palmscale.plan.hardware.chips import CHIPS
from palmscale.plan.hardware.topology import parse


@pytest.mark.parametrize(
    ("name", "dims", "chips", "hosts"),
    [
        ("v4-8", (2, 2, 1), 4, 1),
        ("v4-64", (2, 4, 4), 32, 8),
        ("v4-128", (4, 4, 4), 64, 16),
        ("v4-2048", (8, 8, 16), 1024, 256),
        ("v4-8192", (16, 16, 16), 4096, 1024),
        ("v4:12x16x16", (12, 16, 16), 3072, 768),
        ("v5p-256", (4, 4, 8), 128, 32),
        ("v5p-12288", (16, 16, 24), 6144, 1536),
        ("v5e-256", (16, 16), 256, 64),
        ("v5litepod-8", (2, 4), 8, 2),
        ("v6e-1", (1, 1), 1, 1),
        ("V6E:8x16", (8, 16), 128, 32),
        ("tpu7x:4x4x8", (4, 4, 8), 128, 32),
    ],
)
def test_names_of_slices(name, dims, chips, hosts):
    found = parse(name)
    assert (found.dims, found.chips, found.hosts) == (dims, chips, hosts)


def test_several_slices_count_together():
    two = parse("v4:12x16x16", 2)
    assert (two.chips, two.hosts, str(two)) == (6144, 1536, "2 x v4:12x16x16")


def test_two_devices_a_chip_on_tpu7x():
    assert parse("tpu7x:4x4x4").devices == 128


@pytest.mark.parametrize(
    ("name", "rings"),
    [
        ("v4:4x4x4", (True, True, True)),
        ("v4:2x4x4", (False, False, False)),
        ("v5e:8x16", (False, True)),
        ("v5e:8x8", (False, False)),
        ("v6e:16x16", (True, True)),
    ],
)
def test_which_dims_are_rings(name, rings):
    assert parse(name).rings == rings


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v9-8", "unknown topology 'v9-8'; expected one of v4, v5e, v5p, v6e, tpu7x"),
        ("v5e", "for example v5e:16x16"),
        ("v4:5x5x5", "no slice of v4 has the dims 5x5x5: from 64 chips on its dims are multiples"),
        ("v4:4x4", "has 2 dims, but v4 is a torus of 3"),
        ("v5e:16x32", "the nearest are 16x16"),
        ("v4-100", "v4 has none of 100 TensorCores; the nearest are v4-32, v4-64, v4-128"),
        ("v5e-100", "v5e has none of 100 chips"),
        ("v4:64x64x64", "at most 4,096 chips"),
        ("v4:0x4x4", "no slice of v4 has the dims 0x4x4: .*the nearest are 2x4x4"),
        ("v5e:0x0", "the nearest are 1x1"),
        ("v4-0", "v4 has none of 0 TensorCores"),
        ("v4:-4x4x4", "unknown topology"),
        ("v4:" + "9" * 5000 + "x4x4", "unknown topology"),
        ("v5e-" + "9" * 5000, "unknown topology"),
        ("v5e-\u0661\u0666", "unknown topology"),
        ("", "unknown topology"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, says):
    with pytest.raises(UserError, match=says):
        parse(name)


def test_no_slices():
    with pytest.raises(UserError, match="slices=0 must be at least 1"):
        parse("v5e-256", 0)


@given(st.sampled_from([chip for chip in CHIPS.values() if chip.torus_dims == 3]),
       st.tuples(*[st.integers(1, 6)] * 3))  # fmt: skip
def test_whole_cubes_are_slices_up_to_the_largest(chip, cubes):
    dims = tuple(4 * cube for cube in cubes)
    name = f"{chip.name}:{'x'.join(map(str, dims))}"
    if math.prod(dims) > chip.max_chips:
        with pytest.raises(UserError):
            parse(name)
    else:
        assert parse(name).chips == math.prod(dims)


def test_a_clock_makes_whole_matrix_units_of_the_peak():
    """In units of 128 x 128 multiply-adds: as the vendor states them, or v6e's compiler."""
    units = {"v4": 8, "v5p": 8, "v5e": 4, "v6e": 16}
    for chip in CHIPS.values():
        if chip.clock_hz is not None:
            assert chip.flops_per_cycle == pytest.approx(units[chip.name] * 2 * 128**2, rel=0.01)
