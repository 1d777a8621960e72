"""Two checkpoints are compared by what their manifests state."""

from palmscale.checkpoint.compare import ArrayDifference, array_differences

ARRAY = {"shape": [2], "dtype": "float32", "fingerprint": "1"}


def test_equal_arrays_do_not_differ():
    assert array_differences({"x": ARRAY}, {"x": dict(ARRAY)}) == []


def test_values_are_compared_only_where_shape_and_dtype_are_equal():
    other = {"shape": [3], "dtype": "float32", "fingerprint": "2"}
    assert array_differences({"x": ARRAY}, {"x": other}) == [
        ArrayDifference("x", "shape", ([2], [3]))
    ]
    assert array_differences({"x": ARRAY}, {"x": ARRAY | {"fingerprint": "2"}}) == [
        ArrayDifference("x", "values", ("1", "2"))
    ]


def test_an_array_of_one_side_only_is_named_with_its_type():
    assert array_differences({"x": ARRAY}, {}) == [
        ArrayDifference("x", "presence", ("float32[2]", None))
    ]
