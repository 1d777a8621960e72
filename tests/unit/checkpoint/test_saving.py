import pytest

from palmscale.checkpoint.saving import Saving
from palmscale.errors import UserError


@pytest.mark.parametrize("field", ["every_steps", "every_seconds"])
def test_a_period_is_at_least_one_or_none(field):
    Saving(**{field: None})
    with pytest.raises(UserError, match=f"Saving.{field}=0 must be at least 1, or None for never"):
        Saving(**{field: 0})
