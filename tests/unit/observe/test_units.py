import pytest

from palmscale.observe import units


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (int(1.5 * 2**30), "1.50 GiB"),
        (5 * 2**50, "5,120.00 TiB"),
    ],
)
def test_bytes_are_in_the_unit_that_fits(num_bytes, text):
    assert units.size(num_bytes) == text
