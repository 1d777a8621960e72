"""What follows the last occurrence of a text's end is foreseen."""

from palmscale.infer.lookup import foreseen


def test_what_followed_the_same_tokens_is_foreseen():
    assert foreseen([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]
    assert foreseen([1, 2, 3, 4, 5, 9, 1, 2, 3], 6) == [4, 5, 9, 1, 2, 3]


def test_text_that_repeats_is_foreseen_to_go_on():
    assert foreseen([1, 2, 3, 4, 5, 9, 1, 2, 3], 10) == [4, 5, 9, 1, 2, 3, 4, 5, 9, 1]
    assert foreseen([8, 7, 7, 7, 7, 7, 7], 5) == [7] * 5


def test_the_longest_match_counts_and_of_equal_ones_the_last():
    assert foreseen([1, 2, 3, 7, 2, 3, 8, 1, 2, 3], 1) == [7]
    assert foreseen([2, 3, 7, 2, 3, 8, 2, 3], 1) == [8]


def test_without_two_tokens_in_common_nothing_is_foreseen():
    assert foreseen([1, 2, 3, 4, 9, 4], 3) == []
    assert foreseen([], 3) == foreseen([1], 3) == foreseen([1, 2], 3) == []
