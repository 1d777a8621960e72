"""Which values PaLM's fields may have."""

import pytest

from palmscale.errors import UserError
from palmscale.model.palm import PaLM

TINY = dict(num_tokens=23, dim=16, depth=2, heads=2, dim_head=8, ff_mult=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, 0) for name in
          ("dim", "num_tokens", "depth", "dim_head", "heads", "ff_mult", "query_chunk")),
        ("dim_head", 7),
        ("padded_tokens", 22),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("norm", "batch"),
        ("final_norm", "scale"),
        ("kernel_init", "uniform"),
        ("output_fan_in", "both"),
        ("rotary", "alibi"),
        ("dtype", "float16"),
        ("remat", "all"),
    ],
)  # fmt: skip
def test_a_bad_field_is_refused_by_its_name(field, value):
    with pytest.raises(UserError) as refusal:
        PaLM(**{**TINY, field: value})
    message = str(refusal.value)
    assert f"PaLM.{field}={value!r}" in message
    assert "\n" not in message
