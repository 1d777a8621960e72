"""A trained model, ready for use: to generate, score and evaluate."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.beam import Beam, beam_search
from palmscale.infer.continuation import (
    Piece,
    TextRequest,
    context_length_of,
    continued,
    text_of,
)
from palmscale.infer.engine import Engine
from palmscale.infer.likelihoods import Likelihood, Pair, likelihoods
from palmscale.infer.score import Score, score
from palmscale.infer.text import encode_pair, encode_prompt
from palmscale.infer.weights import decoding_form, form_on
from palmscale.model import interface
from palmscale.partition.layout import DeviceLayout


class BeamText(NamedTuple):
    """A text that beam search found, with its tokens, log-probability and score."""

    text: str
    beam: Beam


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, ready for use.

    Attributes:
        model: the module.
        params: its parameters; with an adapter, `Adapted` weights among them.
        vocabulary: of its tokens.
        step: at which it was saved.
        meta: what the checkpoint says of its run.
        layout: of the parameters; None: they are on one device.
    """

    model: nn.Module
    params: Any
    vocabulary: Vocabulary
    step: int
    meta: Mapping[str, Any]
    layout: DeviceLayout | None

    def generate(self, prompt: str = "", **fields: Any) -> str:
        """Returns the text that the model writes after `prompt`, up to the end of the document.

        Args:
            prompt: the text to continue.
            **fields: of `TextRequest`, such as `max_tokens`, `temperature`, `stop` and `seed`.

        Raises:
            UserError: the model cannot generate, or a value is out of range.
        """
        return "".join(self.stream(prompt, **fields))

    def stream(self, prompt: str = "", **fields: Any) -> Iterator[str]:
        """Yields the text of `generate` as it grows; no character is broken."""
        request = TextRequest(prompt=prompt, **fields)
        return (piece.text for _, piece in self.continued([request], slots=1) if piece.text)

    def samples(self, prompt: str = "", *, num_samples: int, **fields: Any) -> list[str]:
        """Returns `num_samples` texts that continue `prompt`, drawn side by side.

        The first is that of `generate` with the same seed.
        """
        request = TextRequest(prompt=prompt, **fields)
        texts = [""] * num_samples
        requests = request.sampled(num_samples)
        for number, piece in self.continued(requests, slots=num_samples):
            texts[number] += piece.text
        return texts

    def continued(
        self, requests: Iterable[TextRequest], *, slots: int = 8, donate: bool = False
    ) -> Iterator[tuple[int, Piece]]:
        """Yields (the request's number, a piece of its text) until all texts are finished.

        Args:
            requests: what to continue.
            slots: texts that are written at once.
            donate: see `engine`.

        Raises:
            UserError: the model cannot generate.
        """
        requests = list(requests)
        encoded = [request.encoded(self.vocabulary) for request in requests]
        engine = self.engine(slots=slots, context_length=context_length_of(encoded), donate=donate)
        return continued(engine, self.vocabulary, requests)

    def beams(
        self,
        prompt: str = "",
        *,
        beams: int = 4,
        max_tokens: int = 256,
        length_penalty: float = 0.6,
        donate: bool = False,
    ) -> list[BeamText]:
        """Returns the best texts that beam search finds, by descending score.

        Args:
            prompt: the text to continue, up to the end of the document.
            beams: texts that are kept, and returned at most.
            max_tokens: tokens of a text at most.
            length_penalty: 0 or more; see `palmscale.infer.beam.beam_search`.
            donate: see `engine`.

        Raises:
            UserError: the model cannot generate, or a value is out of range.
        """
        request = TextRequest(prompt=prompt, max_tokens=max_tokens)
        ids = request.encoded(self.vocabulary)
        model, variables = self._decoding_form(donate=donate)
        found = beam_search(
            model=model,
            variables=variables,
            prompt=ids.prompt,
            beams=beams,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
            stop_ids=ids.stop_ids,
            layout=self.layout,
        )
        return [BeamText(text_of(beam.tokens, request, self.vocabulary), beam) for beam in found]

    def engine(
        self,
        *,
        slots: int = 8,
        context_length: int = 2048,
        prefill_chunk: int = 128,
        reuse_prefixes: bool = True,
        speculate_tokens: int = 0,
        quantize: str | None = None,
        donate: bool = False,
    ) -> Engine:
        """Returns an engine of the model; see `palmscale.infer.engine.Engine`.

        Its weights are another form of the parameters: cast once, and apart by layer.

        Args:
            slots: see there, as the other arguments.
            context_length: tokens of a prompt and its continuation together, at most.
            prefill_chunk: tokens of prompts that one step computes at most.
            reuse_prefixes: whether equal beginnings are computed once.
            speculate_tokens: tokens that a step may foresee.
            quantize: type of the weights, `int8`, `int4` or `fp8`; None: that of the parameters.
            donate: whether the engine takes the parameters over, so that there is no second copy;
                `params` cannot be used any more.

        Raises:
            UserError: the model cannot generate, or a value is out of range.
        """
        model, variables = self._decoding_form(quantize=quantize, donate=donate)
        return Engine(
            model=model,
            variables=variables,
            layout=self.layout,
            slots=slots,
            context_length=context_length,
            prefill_chunk=prefill_chunk,
            reuse_prefixes=reuse_prefixes,
            speculate_tokens=speculate_tokens,
        )

    def score(self, texts: Iterable[str], *, context_length: int | None = None) -> list[Score]:
        """Returns the log-probabilities of each text, as a document of its own.

        Args:
            texts: to score.
            context_length: tokens that the model sees at once; a longer text is scored in windows,
                as by lm-eval's rolling log-likelihood. None: it sees the whole text.

        Raises:
            UserError: a text is not UTF-8, or `context_length` is out of range.
        """
        if context_length is not None and context_length < 1:
            raise UserError(f"context_length={context_length} must be at least 1.")
        with self._entered():
            return [
                score(
                    model=self.model,
                    params=self.params,
                    row=encode_prompt(self.vocabulary, text),
                    text_bytes=len(text.encode()),
                    context_length=context_length,
                )
                for text in texts
            ]

    def likelihoods(self, pairs: Iterable[tuple[str, str]]) -> list[Likelihood]:
        """Returns the log-probability of each continuation, and whether it is the greedy one.

        Pairs are computed in batches; a context that several share is computed once.

        Args:
            pairs: (context, continuation). An empty context is the beginning of a document.

        Raises:
            UserError: a text is not UTF-8.
        """
        encoded = [Pair(*encode_pair(self.vocabulary, *pair)) for pair in pairs]
        model, variables = self.scoring_form()
        return likelihoods(model=model, variables=variables, pairs=encoded, layout=self.layout)

    def scoring_form(self, *, donate: bool = False) -> tuple[nn.Module, Any]:
        """Returns a module and variables that score text, and generate it if the model can.

        Args:
            donate: see `engine`.
        """
        if interface.generates(self.model):
            return self._decoding_form(donate=donate)
        return self.model, interface.variables_of(self.params)

    def _decoding_form(self, *, quantize: str | None = None, donate: bool) -> tuple[nn.Module, Any]:
        interface.check_generates(self.model)
        leaf = jax.tree.leaves(self.params)[0]
        platform = next(iter(leaf.sharding.device_set)).platform
        return decoding_form(
            self.model, self.params, **form_on(platform), quantize=quantize, donate=donate
        )

    def _entered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.layout is None else self.layout.entered()
