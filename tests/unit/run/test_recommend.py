"""Batches and steps that fit a size."""

import pytest

from palmscale.run.recommend import recommend, source_of


def test_the_batch_grows_with_the_model_up_to_the_papers():
    tokens = [
        advice.batch_sequences * advice.sequence_length
        for advice in map(recommend, (10**5, 10**6, 10**7, 10**8, 10**9, 10**10, 10**12))
    ]
    assert tokens == sorted(tokens)
    assert tokens[1] == 4096 and tokens[-1] == 2048 * 2048


@pytest.mark.parametrize("parameters", [10**6, 3 * 10**7, 10**9])
def test_there_are_twenty_tokens_per_parameter_and_the_rate_is_held_for_the_papers_share(
    parameters,
):
    advice = recommend(parameters)
    tokens = advice.steps * advice.batch_sequences * advice.sequence_length
    assert tokens == pytest.approx(20 * parameters, rel=0.05)
    assert advice.hold_steps / advice.steps == pytest.approx(10_000 / 255_000, rel=0.05)


def test_a_tiny_model_still_trains_for_a_thousand_steps():
    assert recommend(1).steps == 1000


@pytest.mark.parametrize(
    ("pattern", "parameter"),
    [
        ("my/*.txt", "text_files"),
        ("my/*", "text_files"),
        ("my/*.jsonl.ZST", "jsonl_files"),
        ("a.json", "jsonl_files"),
        ("gs://b/*.parquet", "parquet_files"),
        ("notes.md.gz", "text_files"),
    ],
)
def test_files_are_read_by_their_suffix(pattern, parameter):
    assert source_of(pattern) == parameter
