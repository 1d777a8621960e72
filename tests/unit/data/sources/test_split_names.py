import pytest

from palmscale.data.sources.split_names import by_split, renamed


@pytest.mark.parametrize(
    ("paths", "train", "validation"),
    [
        ("train.jsonl test.jsonl val.jsonl", "train.jsonl", "val.jsonl"),
        ("train.jsonl test.jsonl dev.jsonl", "train.jsonl", "dev.jsonl"),
        ("train.jsonl eval.jsonl", "train.jsonl", "eval.jsonl"),
        ("train/0.jsonl test/0.jsonl valid/0.jsonl", "train/0.jsonl", "valid/0.jsonl"),
        ("data/train-00000-of-00001.parquet data/test-00000-of-00001.parquet",
         "data/train-00000-of-00001.parquet", ""),
        ("my_set_training.jsonl my_set_testing.jsonl", "my_set_training.jsonl", ""),
        ("a.jsonl b.jsonl", "a.jsonl b.jsonl", ""),
        ("a.jsonl b.jsonl test.jsonl", "a.jsonl b.jsonl", ""),
        ("train.jsonl more.jsonl", "train.jsonl", ""),
        ("latest.jsonl contest.jsonl unit_tests.jsonl", "latest.jsonl contest.jsonl"
         " unit_tests.jsonl", ""),
        ("train.jsonl dev.jsonl eval.jsonl", "train.jsonl", "dev.jsonl"),
        ("validation-0.parquet validation-1.parquet train-0.parquet", "train-0.parquet",
         "validation-0.parquet validation-1.parquet"),
        ("train/test_of_strength.jsonl train/b.jsonl", "train/test_of_strength.jsonl"
         " train/b.jsonl", ""),
        ("train_test.jsonl train.jsonl", "train.jsonl", ""),
        ("VAL.jsonl Train.jsonl", "Train.jsonl", "VAL.jsonl"),
    ],
)  # fmt: skip
def test_names_of_files_and_folders_say_the_split(paths, train, validation):
    splits = by_split(paths.split())
    assert splits.get("train", []) == train.split()
    assert splits.get("validation", []) == validation.split()


def test_a_test_set_alone_is_nothing_to_train_on():
    assert by_split(["test.jsonl"]) == {"test": ["test.jsonl"]}


def test_splits_of_a_published_dataset_are_known_by_their_usual_names():
    assert renamed({"train": 1, "dev": 2, "test": 3}) == {"train": 1, "validation": 2, "test": 3}
    assert renamed({"train": 1, "validation": 2, "val": 3})["validation"] == 2
    assert renamed({"training": 1, "eval": 2}) == {"train": 1, "validation": 2}
    assert renamed({"all": 1, "test": 2}) == {"all": 1, "test": 2}
