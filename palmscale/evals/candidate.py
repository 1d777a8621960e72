"""A model that is evaluated: what it needs to score and to continue text."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest, context_length_of, continued
from palmscale.infer.engine import Engine
from palmscale.infer.likelihoods import Likelihood, Pair, likelihoods, rolling
from palmscale.infer.request import Request
from palmscale.model import interface
from palmscale.observe import log
from palmscale.partition.layout import DeviceLayout
from palmscale.run.trained import Trained

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model under evaluation. With several processes, each makes the same calls.

    Attributes:
        model: the module.
        variables: of the module, as `Trained.scoring_form` returns them.
        vocabulary: of its tokens.
        layout: of the variables; None: they are on one device.
        context_length: tokens that the model sees at once, with bos.
        progress: receives what is computed, how much of it is done, and how much there is.
    """

    model: nn.Module
    variables: Any
    vocabulary: Vocabulary
    layout: DeviceLayout | None
    context_length: int
    progress: Progress = lambda what, done, total: None

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Returns the likelihood of each continuation.

        Of a context that is too long, the model sees bos and the end. A continuation that is too
        long is scored in windows, without its context.
        """
        parts = [self._fitting(pair) for pair in pairs]
        cut = sum(len(pair.context) + len(pair.continuation) - 1 > self.context_length
                  for pair in pairs)  # fmt: skip
        self._warn_of_cut(cut, len(pairs))
        return self._sums(parts)

    def rolling_likelihoods(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Returns the log-probability of each text, as a document of its own, in windows.

        Args:
            texts: the ids of each, without bos.
        """
        bos = self.vocabulary.bos_id
        sums = self._sums([rolling([bos, *ids], self.context_length) for ids in texts])
        return [one.log_probability for one in sums]

    def continuations(self, requests: Sequence[TextRequest], *, slots: int = 16) -> list[str]:
        """Returns the text that continues each prompt.

        Of a prompt that is too long, the model sees bos and the end.

        Args:
            requests: what to continue.
            slots: texts that are written at once, at most.

        Raises:
            UserError: the model cannot generate, or no token of a prompt fits beside the new ones.
        """
        interface.check_generates(self.model)
        for request in requests:
            if request.max_tokens >= self.context_length:
                raise UserError(
                    f"max_tokens={request.max_tokens} leaves no room for the prompt in"
                    f" context_length={self.context_length}; raise context_length."
                )
        if not requests:
            return []
        fields = [
            {field.name: getattr(request, field.name) for field in dataclasses.fields(TextRequest)}
            for request in requests
        ]
        fitting = [_Fitting(**of, most_tokens=self.context_length) for of in fields]
        encoded = [request.encoded(self.vocabulary) for request in fitting]
        lengths = [len(request.encoded(self.vocabulary).prompt) for request in requests]
        cut = sum(len(one.prompt) < length for one, length in zip(encoded, lengths, strict=True))
        self._warn_of_cut(cut, len(requests))
        engine = Engine(
            model=self.model,
            variables=self.variables,
            layout=self.layout,
            slots=min(slots, 1 << (len(requests) - 1).bit_length()),
            context_length=context_length_of(encoded),
        )
        texts, done = [""] * len(requests), 0
        for number, piece in continued(engine, self.vocabulary, fitting):
            self.progress("texts written", done, len(requests))
            texts[number] += piece.text
            done += piece.finish_reason is not None
        return texts

    def _fitting(self, pair: Pair) -> list[Pair]:
        room = self.context_length + 1 - len(pair.continuation)  # the last token is not seen
        if len(pair.context) <= room:
            return [pair]
        bos = self.vocabulary.bos_id
        if room <= 1:
            return rolling([bos, *pair.continuation], self.context_length)
        return [Pair([bos, *pair.context[1 - room :]], pair.continuation)]

    def _sums(self, parts: Sequence[Sequence[Pair]]) -> list[Likelihood]:
        found = likelihoods(
            model=self.model,
            variables=self.variables,
            pairs=[pair for own in parts for pair in own],
            layout=self.layout,
            progress=functools.partial(self.progress, "continuations scored"),
        )
        each: Iterator[Likelihood] = iter(found)
        sums = []
        for own in parts:
            of_parts = [next(each) for _ in own]
            log_p = float(np.sum([one.log_probability for one in of_parts]))
            sums.append(Likelihood(log_p, all(one.is_greedy for one in of_parts)))
        return sums

    def _warn_of_cut(self, cut: int, of: int) -> None:
        if cut:
            log.warn(
                f"{cut:,} of {of:,} texts are longer than context_length={self.context_length:,}"
                " tokens; the model sees the end of their contexts only."
            )


def candidate_of(
    trained: Trained,
    *,
    context_length: int | None = None,
    donate: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Candidate:
    """Returns a trained model as a candidate.

    Args:
        trained: the model.
        context_length: see `Candidate`; None: that of a row in training.
        donate: whether the candidate takes the parameters over, so that there is no second copy.
        progress: see `Candidate`.
    """
    model, variables = trained.scoring_form(donate=donate)
    return Candidate(
        model=model,
        variables=variables,
        vocabulary=trained.vocabulary,
        layout=trained.layout,
        context_length=context_length or trained.meta["sequence_length"],
        progress=progress,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Fitting(TextRequest):
    """A request whose prompt is cut on the left, after bos, to fit beside its new tokens."""

    most_tokens: int

    def encoded(self, vocabulary: Vocabulary) -> Request:
        request = super().encoded(vocabulary)
        room = self.most_tokens - self.max_tokens
        if len(request.prompt) <= room:
            return request
        kept = np.concatenate([request.prompt[:1], request.prompt[1:][-(room - 1) :]])
        return dataclasses.replace(request, prompt=kept[:room])
