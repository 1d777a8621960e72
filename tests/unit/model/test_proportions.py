"""A PaLM of any size has sensible dimensions, by the model's own count."""

import pytest

from palmscale.errors import UserError
from palmscale.model.proportions import palm_of_size, parameter_count, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10m", 10_000_000),
        ("1.5B", 1_500_000_000),
        ("300k", 300_000),
        ("125_000_000", 125_000_000),
    ],
)
def test_a_size_is_a_number_with_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1m", "10 mb", "1e6", "m"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="is not a size; expected a number such as 10m"):
        parse_size(text)


@pytest.mark.parametrize("num_tokens", [259, 32_000])
@pytest.mark.parametrize("size", ["7m", "43m", "125m", "1b", "13b", "175b"])
def test_the_count_is_near_the_one_asked_for_and_the_shape_is_that_of_the_papers(size, num_tokens):
    parameters = parse_size(size)
    model = palm_of_size(parameters, num_tokens=num_tokens, multiple=128)
    layer = (
        2 * model.dim * model.heads * model.dim_head  # query and output
        + 2 * model.dim * model.dim_head  # key and value
        + 3 * 4 * model.dim**2  # the MLP
    )
    count = model.depth * layer + num_tokens * model.dim
    assert parameter_count(model) == count == pytest.approx(parameters, rel=0.1)
    assert model.heads * model.dim_head == model.dim and model.heads % 2 == 0
    assert 20 <= model.dim / model.depth <= 160
    assert model.stored_tokens % 128 == 0 <= model.stored_tokens - num_tokens < 128


def test_the_papers_8b_is_found_again():
    model = palm_of_size(8_631_877_632, num_tokens=256_000, multiple=384)
    assert (model.dim, model.depth, model.heads, model.dim_head) == (4096, 32, 16, 256)


@pytest.mark.parametrize(("size", "num_tokens"), [("2m", 32_000), ("1", 259), ("0", 259)])
def test_a_size_without_room_for_the_vocabulary_is_refused(size, num_tokens):
    with pytest.raises(UserError, match="use more parameters or a smaller vocabulary"):
        palm_of_size(parse_size(size), num_tokens=num_tokens, multiple=16)
