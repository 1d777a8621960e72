import time
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data import mixture as mixtures
from palmscale.data.mixture import Mixed, Mixture, check_alike, rates
from palmscale.data.stream import Shuffled
from palmscale.errors import UserError

PAPER = {"social": 50, "webpages": 27, "books": 13, "code": 5, "wikipedia": 4, "news": 1}
ODD = {"a": 1 / 3, "b": 0.271828, "c": 7.77, "d": 0.05}
NAMES = "abcdefg"

weight = st.one_of(st.integers(1, 100), st.floats(0.01, 10.0))


@st.composite
def many_stages(draw):
    """Up to four stages of any length, some weights being zero in some of them."""
    count = draw(st.integers(1, len(NAMES)))
    stages, first_row = [], 0
    for _ in range(draw(st.integers(1, 4))):
        weights = draw(st.lists(st.just(0) | weight, min_size=count, max_size=count).filter(any))
        stages.append((first_row, dict(zip(NAMES, weights))))
        first_row += draw(st.integers(1, 3000) | st.integers(1, 20_000))
    return stages


def located(mixture, numbers):
    """Returns the rows of each component, in the order of `numbers`."""
    component, row = mixture.locate(np.asarray(numbers))
    return {name: row[component == c] for c, name in enumerate(mixture.components)}


def shares(stages, numbers):
    mixture = Mixture(stages, seed=0)
    rows = located(mixture, numbers)
    return {name: len(own) / len(numbers) for name, own in rows.items()}


@settings(deadline=None, max_examples=40)
@given(stages=many_stages(), seed=st.integers(0, 5), rows=st.integers(1, 30_000))
def test_each_components_rows_come_in_order_each_once_whatever_the_stages(stages, seed, rows):
    mixture = Mixture(stages, seed=seed)
    found = located(mixture, np.arange(rows))
    for own in found.values():
        assert np.array_equal(own, np.arange(len(own)))
    assert mixture.consumed(rows) == {name: len(own) for name, own in found.items()}


@settings(deadline=None, max_examples=25)
@given(stages=many_stages(), cuts=st.lists(st.integers(0, 12_000), max_size=6), seed=st.integers(0))
def test_a_row_is_the_same_however_it_is_asked_for(stages, cuts, seed):
    numbers = np.arange(12_000)
    whole = np.array(Mixture(stages, seed=seed).locate(numbers))
    mixture = Mixture(stages, seed=seed)
    parts = [np.array(mixture.locate(part)) for part in np.split(numbers, sorted(cuts))]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    shuffled = np.random.default_rng(0).permutation(numbers)
    assert np.array_equal(np.array(mixture.locate(shuffled)), whole[:, shuffled])


@pytest.mark.parametrize("weights", [PAPER, ODD, {"a": 3, "b": 4.5}, {"only": 0.1}])
def test_shares_are_the_weights_to_a_tenth_of_a_percent(weights):
    total = sum(weights.values())
    for first in (0, 12_345_678):
        for name, share in shares([(0, weights)], first + np.arange(100_000)).items():
            assert share == pytest.approx(weights[name] / total, abs=0.001)


@settings(deadline=None, max_examples=50)
@given(weights=st.lists(weight, min_size=1, max_size=7), rows=st.integers(1, 30_000))
def test_shares_of_a_whole_stage_are_within_a_row_a_block_for_any_weights(weights, rows):
    weights = dict(zip(NAMES, weights))
    total = sum(weights.values())
    small = sum(own / total < 1 / 4096 for own in weights.values())  # have a row, all the same
    found = Mixture([(0, weights), (rows, weights)], seed=0).consumed(rows)
    blocks = rows // 2049 + 1
    for name, own in weights.items():
        assert found[name] == pytest.approx(rows * own / total, abs=blocks * (1 + small))


def test_the_papers_shares_are_exact_in_every_four_thousand_rows():
    for block in (0, 7, 10**6):
        numbers = np.arange(4000 * block, 4000 * (block + 1))
        assert shares([(0, PAPER)], numbers) == {n: w / 100 for n, w in PAPER.items()}


def test_components_are_spread_over_a_block_and_differently_in_each():
    mixture = Mixture([(0, PAPER)], seed=0)
    first, second = (mixture.locate(np.arange(4000) + 4000 * b)[0] for b in range(2))
    other = Mixture([(0, PAPER)], seed=1).locate(np.arange(4000))[0]
    social = mixture.components.index("social")
    by_chance = sum((weight / 100) ** 2 for weight in PAPER.values())
    for unlike in (second, other):
        assert (first == unlike).mean() == pytest.approx(by_chance, abs=0.05)
    for part in np.split(first == social, 8):
        assert 0.4 < part.mean() < 0.6


def test_a_component_of_the_smallest_weight_has_a_row_in_every_block():
    rows = located(Mixture([(0, {"a": 1, "b": 1e-9})], seed=0), np.arange(4096 * 3))
    assert len(rows["b"]) == 3


@pytest.mark.parametrize("scale", [1, 7, 0.01])
def test_only_proportions_matter_and_not_the_order_of_the_names(scale):
    scaled = {name: round(w * scale, 4) for name, w in reversed(PAPER.items())}
    numbers = np.arange(10_000)
    ours = np.array(Mixture([(0, scaled)], seed=0).locate(numbers))
    assert np.array_equal(ours, np.array(Mixture([(0, PAPER)], seed=0).locate(numbers)))


def test_a_change_of_weights_comes_at_its_row_and_leaves_what_was_before():
    changed = {"a": 1, "b": 0, "c": 3}
    plain = [(0, {"a": 1, "b": 1, "c": 0})]
    before, after = np.arange(5001), 5001 + np.arange(40_000)
    late = shares([*plain, (5001, changed)], after)
    assert late == pytest.approx({"a": 0.25, "b": 0, "c": 0.75}, abs=0.001) and late["b"] == 0
    start = np.arange(4096)  # blocks before a stage's last one are as if there were no change
    ours, theirs = (Mixture(stages, seed=0) for stages in ([*plain, (5001, changed)], plain))
    assert np.array_equal(ours.locate(start), theirs.locate(start))
    assert shares([*plain, (5001, changed)], before) == pytest.approx(
        {"a": 0.5, "b": 0.5, "c": 0}, abs=1 / 5001
    )


def test_a_row_far_away_costs_as_much_as_the_first():
    mixture = Mixture([(0, PAPER), (10**9, dict.fromkeys(PAPER, 1))], seed=0)
    seconds = []
    for row in (0, 10**12):
        start = time.perf_counter()
        component, own = mixture.locate(np.arange(row, row + 16))
        seconds.append(time.perf_counter() - start)
    assert max(seconds) < 0.05 and (own > 10**11).all()
    assert sum(mixture.consumed(10**12).values()) == 10**12


def test_the_rows_of_a_batch_across_two_blocks_are_worked_out_once(monkeypatch):
    sizes, permute = [], mixtures.permute

    def counted(index, **options):
        sizes.append(len(index))
        return permute(index, **options)

    monkeypatch.setattr(mixtures, "permute", counted)
    mixture = Mixture([(0, PAPER)], seed=0)
    for first in range(3900, 4100, 4):
        mixture.locate(np.arange(first, first + 64))
    assert sizes == [4000, 4000]


class Numbers:
    """Rows that consist of a letter's code and their own number."""

    sequence_length = 2

    def __init__(self, letter, num_rows):
        self.letter, self.num_rows = letter, num_rows

    def read(self, row_indices):
        rows = np.asarray(row_indices, np.int32)
        target = np.stack([np.full_like(rows, ord(self.letter)), rows], axis=1)
        return {"target": target, "weight": np.full(target.shape, 0.5, np.float32)}


SPLITS = {"b": Numbers("b", 30), "a": Numbers("a", 1000)}
STAGES = [(0, {"b": 1, "a": 3}), (400, {"b": 1, "a": 1})]


def test_mixed_rows_are_those_of_each_component_shuffled_by_itself():
    read = Mixed(SPLITS, STAGES, seed=5).read(np.arange(1000))
    for name, split in SPLITS.items():
        own = read["target"][read["target"][:, 0] == ord(name), 1]
        alone = Shuffled(split, seed=5, name=name).read(np.arange(len(own)))["target"][:, 1]
        assert np.array_equal(own, alone)
    assert read["target"].dtype == np.int32 and read["weight"].dtype == np.float32
    assert (read["target"][:400, 0] == ord("b")).mean() == 0.25
    assert read["weight"].shape == (1000, 2) and (read["weight"] == 0.5).all()


def test_mixed_rows_come_in_the_order_asked_for():
    mixed = Mixed(SPLITS, STAGES, seed=0)
    whole = mixed.read(np.arange(500))["target"]
    for numbers in (np.arange(499, -1, -7), np.array([3]), np.arange(390, 410)):
        assert np.array_equal(mixed.read(numbers)["target"], whole[numbers])


def test_the_name_of_each_rows_split_is_told():
    mixed = Mixed(SPLITS, STAGES, seed=0)
    letters = mixed.read(np.arange(390, 500))["target"][:, 0]
    assert mixed.names(np.arange(390, 500)) == [chr(letter) for letter in letters]


def test_epochs_are_counted_for_each_component():
    mixed = Mixed(SPLITS, STAGES, seed=0)
    assert mixed.epochs(0) == {"a": 0, "b": 0}
    assert mixed.epochs(400) == {"a": 0.3, "b": 100 / 30}


def test_a_component_without_rows_is_named():
    with pytest.raises(UserError, match="the training split of b has no rows"):
        Mixed(SPLITS | {"b": Numbers("b", 0)}, STAGES, seed=0)


def cache(digest="v", sequence_length=8, is_packed=False):
    return types.SimpleNamespace(
        directory="folder",
        vocabulary=types.SimpleNamespace(digest=digest),
        sequence_length=sequence_length,
        split=lambda name: types.SimpleNamespace(is_packed=is_packed),
    )


@pytest.mark.parametrize(
    ("different", "what"),
    [
        ({"digest": "w"}, "vocabularies"),
        ({"sequence_length": 16}, "sequence lengths"),
        ({"is_packed": True}, "packings"),
    ],
)
def test_caches_that_do_not_go_together_are_named_with_what_differs(different, what):
    check_alike({"": cache()})
    check_alike({"a": cache(), "b": cache()})
    with pytest.raises(UserError, match=f"a and c have different {what}") as caught:
        check_alike({"a": cache(), "b": cache(), "c": cache(**different)})
    assert "\n" not in str(caught.value)


def test_rates_are_those_of_the_rows():
    for weights in (PAPER, {"a": 1, "b": 0, "c": 2}, {"a": 0.998, "b": 0.002}, {"a": 4095, "b": 1}):
        rows = shares([(0, weights)], np.arange(4096 * 50))
        assert rates(weights) == pytest.approx(rows, rel=0.02, abs=0)
        asked = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        assert rates(weights) == pytest.approx(asked, rel=0.1, abs=0)


@pytest.mark.parametrize("weight", [1e-9, 0.00001, 0.0001, 0.00037])
def test_a_weight_too_small_for_a_block_is_refused(weight):
    with pytest.raises(UserError, match="the component b would get . of 4,096 rows, .* sum of at"):
        rates({"a": 1, "b": weight})
