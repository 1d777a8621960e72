"""Log-likelihoods of many continuations, in batches; a context that several share is read once.

Contexts are read into the caches of a batch of sequences, chunk by chunk. The first continuation of
each is then computed after it, and the second in the place of the first. Chunks have few lengths,
and so there are few programs, whatever the lengths of the texts. A module that cannot extend a
cache computes each continuation with its whole context.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.infer.cache import empty_cache
from palmscale.infer.partition import entered, phase
from palmscale.infer.programs import extend, layers_apart
from palmscale.infer.score import of_targets, padded_length, scores_of, windows
from palmscale.model import interface
from palmscale.model.attention import Cache
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.shardings import constrain

_CHUNK = 128  # positions that are computed at once, at most
_LEAST_CHUNK = 16  # a chunk has a power of two of them: one program for each
_LEAST_SHARED = 16  # tokens of a context; a shorter one is computed sooner than waited for


class Pair(NamedTuple):
    """A continuation, and what comes before it.

    Attributes:
        context: ids, at least one; they begin with the bos id.
        continuation: ids, which may be none.
    """

    context: Sequence[int]
    continuation: Sequence[int]


def rolling(row: Sequence[int], context_length: int) -> list[Pair]:
    """Returns pairs that score each token of a text once; see `palmscale.infer.score.windows`.

    Args:
        row: the bos id, then the text's ids.
        context_length: tokens that the model sees at once.
    """
    return [
        Pair(row[start : first + 1], row[first + 1 : end + 1])
        for start, first, end in windows(len(row) - 1, context_length)
    ]


class Likelihood(NamedTuple):
    """What a model says of a continuation.

    Attributes:
        log_probability: of all its tokens given the context, natural; 0 without tokens.
        is_greedy: whether no token has a likelier one in its place.
    """

    log_probability: float
    is_greedy: bool


@dataclasses.dataclass(frozen=True)
class _Question:
    """A context, and the numbers of the pairs that have it."""

    context: tuple[int, ...]
    numbers: list[int]


def likelihoods(
    *,
    model: nn.Module,
    variables: Any,
    pairs: Sequence[Pair],
    layout: DeviceLayout | None = None,
    sequences: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Likelihood]:
    """Returns the likelihood of each pair's continuation, in the order of the pairs.

    With several processes, each makes the same call and has the whole result.

    Args:
        model: offers `hidden` and `unembed`, or `extend` and `unembed`.
        variables: of the model; see `palmscale.infer.weights.decoding_form`.
        pairs: of any lengths, in any order.
        layout: where the variables lie, with the rules of one sequence; None: on one device.
        sequences: contexts that are computed at once, at most.
        progress: receives how many pairs are done, and how many there are.

    Raises:
        UserError: a context has no token.
    """
    if any(len(pair.context) < 1 for pair in pairs):
        raise UserError("a context has no token; begin it with the vocabulary's bos id.")
    found = [Likelihood(0.0, True)] * len(pairs)
    batches = _Cached if interface.generates(model) else _Whole
    # The longest first: what does not fit in memory fails at once.
    questions = sorted(
        _questions(pairs), key=lambda q: (-len(q.context), -_longest(q, pairs), q.context)
    )
    if not questions:
        return found
    batch = batches(model, variables, layout, sequences=_size(len(questions), sequences))
    batch.fit(max(len(q.context) + _longest(q, pairs) for q in questions))
    done = 0
    for first in range(0, len(questions), sequences):
        for number, scores in batch.scores(questions[first : first + sequences], pairs):
            progress(done, len(pairs))
            done += 1
            log_p_L, greedy_L = (np.concatenate(parts) for parts in zip(*scores, strict=True))
            found[number] = Likelihood(float(log_p_L.sum(dtype=np.float64)), bool(np.all(greedy_L)))
    return found


def _questions(pairs: Sequence[Pair]) -> list[_Question]:
    """Returns the contexts, each once, unless it is so short that its pairs go side by side."""
    found: list[_Question] = []
    by_context: dict[tuple[int, ...], _Question] = {}
    for number, pair in enumerate(pairs):
        if not len(pair.continuation):
            continue
        context = tuple(map(int, pair.context))
        if context not in by_context or len(context) < _LEAST_SHARED:
            by_context[context] = _Question(context, [])
            found.append(by_context[context])
        by_context[context].numbers.append(number)
    return found


def _longest(question: _Question, pairs: Sequence[Pair]) -> int:
    return max(len(pairs[number].continuation) for number in question.numbers)


def _size(count: int, most: int) -> int:
    """Returns the sequences of a batch: few questions need no more than a power of two."""
    return min(most, 1 << (count - 1).bit_length())


def _chunks(length: int) -> Iterator[tuple[int, int]]:
    """Yields (start, size) of the chunks of so many positions."""
    for start in range(0, length, _CHUNK):
        rest = length - start
        yield start, min(_CHUNK, max(_LEAST_CHUNK, 1 << (rest - 1).bit_length()))


# What a chunk says of one row's continuation: log-probabilities, and whether they are the greatest.
_Scores = list[tuple[np.ndarray, np.ndarray]]


class _Cached:
    """A batch whose contexts are read into a cache."""

    def __init__(
        self, model: nn.Module, variables: Any, layout: DeviceLayout | None, *, sequences: int
    ) -> None:
        self._model, self._variables, self._sequences = model, variables, sequences
        self._layout = layout and phase(model, layout, sequences=sequences, new_tokens=_CHUNK)[0]

    def fit(self, tokens: int) -> None:
        """Makes room for rows of so many tokens."""
        # Where a write past the end of a cache is clamped, a chunk's padding needs room, too.
        positions = max(_CHUNK, 1 << (tokens - 1).bit_length()) + _CHUNK
        self._empty = functools.partial(
            _empty_cache,
            interface.cache_spec(self._model),
            batch=self._sequences,
            positions=positions,
            apart=layers_apart(self._model, self._variables),
        )

    def scores(
        self, questions: Sequence[_Question], pairs: Sequence[Pair]
    ) -> Iterator[tuple[int, _Scores]]:
        """Yields (a pair's number, its scores) of all pairs of the questions."""
        rounds = max(len(question.numbers) for question in questions)
        contexts = [question.context[:-1] for question in questions]
        start_B = np.zeros(self._sequences, np.int32)
        start_B[: len(contexts)] = [len(context) for context in contexts]
        with entered(self._layout):
            cache = self._empty()
            for start, size in _chunks(max(map(len, contexts))):
                length_B = np.full(self._sequences, start, np.int32)
                tokens_BL = self._rows([c[start : start + size] for c in contexts], size)
                cache = cache.replace(length=length_B)
                cache, _ = _advance(self._model, self._variables, cache, tokens_BL, None)
            for nth in range(rounds):
                asked = {
                    b: question.numbers[nth]
                    for b, question in enumerate(questions)
                    if nth < len(question.numbers)
                }
                cache, scores = self._continue(cache, start_B, asked, pairs)
                for b, number in asked.items():
                    yield number, scores[b]

    def _continue(
        self, cache: Cache, start_B: np.ndarray, asked: dict[int, int], pairs: Sequence[Pair]
    ) -> tuple[Cache, dict[int, _Scores]]:
        """Computes one continuation of each asked row, after its context."""
        targets = {b: list(map(int, pairs[number].continuation)) for b, number in asked.items()}
        inputs = {b: [int(pairs[n].context[-1]), *targets[b][:-1]] for b, n in asked.items()}
        scores: dict[int, _Scores] = {b: [] for b in asked}
        rows = range(self._sequences)
        for start, size in _chunks(max(map(len, targets.values()))):
            parts = (
                [of.get(b, [])[start : start + size] for b in rows] for of in (inputs, targets)
            )
            tokens_BL, targets_BL = (self._rows(part, size) for part in parts)
            cache = cache.replace(length=start_B + np.int32(start))
            cache, found = _advance(self._model, self._variables, cache, tokens_BL, targets_BL)
            log_p_BL, greedy_BL = jax.device_get(found)
            for b, target in targets.items():
                count = len(target[start : start + size])
                scores[b].append((log_p_BL[b, :count], greedy_BL[b, :count]))
        return cache, scores

    def _rows(self, parts: Sequence[Sequence[int]], size: int) -> np.ndarray:
        rows_BL = np.zeros((self._sequences, size), np.int32)
        for b, part in enumerate(parts):
            rows_BL[b, : len(part)] = part
        return rows_BL


_empty_cache = jax.jit(empty_cache, static_argnames=("spec", "batch", "positions", "apart"))


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _advance(
    model: nn.Module,
    variables: Any,
    cache: Cache,
    tokens_BL: jax.Array,
    targets_BL: jax.Array | None,
) -> tuple[Cache, Any]:
    """Returns the cache with more tokens, and the scores of those after each, if they are given."""
    x_BLD, cache = extend(model, variables, tokens_BL, cache)
    if targets_BL is None:
        return cache, None
    scores = of_targets(model.apply(variables, x_BLD, method="unembed"), targets_BL)
    return cache, jax.tree.map(lambda x_BL: constrain(x_BL, (None, None)), scores)


class _Whole:
    """A batch of a module that has no cache: each continuation is computed with its context."""

    def __init__(
        self, model: nn.Module, variables: Any, layout: DeviceLayout | None, *, sequences: int
    ) -> None:
        self._model, self._sequences, self._layout = model, sequences, layout
        (self._params,) = variables.values()

    def fit(self, tokens: int) -> None:
        """Does nothing: each batch has the length of its longest row."""

    def scores(
        self, questions: Sequence[_Question], pairs: Sequence[Pair]
    ) -> Iterator[tuple[int, _Scores]]:
        """Yields (a pair's number, its scores) of all pairs of the questions."""
        numbers = [number for question in questions for number in question.numbers]
        for first in range(0, len(numbers), self._sequences):
            part = numbers[first : first + self._sequences]
            rows = [[*pairs[n].context, *pairs[n].continuation] for n in part]
            length = padded_length(max(map(len, rows)) - 1)
            rows_BL = np.zeros((self._sequences, 1 + length), np.int32)
            for b, row in enumerate(rows):
                rows_BL[b, : len(row)] = row
            with entered(self._layout):
                found = jax.device_get(scores_of(self._model, self._params, rows_BL))
            for b, number in enumerate(part):
                scored = slice(len(pairs[number].context) - 1, len(rows[b]) - 1)
                yield number, [(found[0][b, scored], found[1][b, scored])]
