import pytest

from palmscale.run.nearest import did_you_mean, nearest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TRAIN_STEP", "TRAIN_STEPS"),
        ("train_steps", "TRAIN_STEPS"),
        ("PaLM", "palm.PaLM"),
        ("zzz", None),
    ],
)
def test_nearest_ignores_case_and_finds_last_parts(name, expected):
    assert nearest(name, ["TRAIN_STEPS", "BATCH", "palm.PaLM"]) == expected


def test_without_a_near_name_a_few_known_ones_are_listed():
    assert did_you_mean("zzz", ["b", "a"]) == "; known: a, b"
    assert did_you_mean("zzz", [f"name{i:02}" for i in range(20)]).endswith("name11, ...")
    assert did_you_mean("zzz", []) == ""
