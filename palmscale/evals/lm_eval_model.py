"""A candidate as a model of EleutherAI's lm-eval, in process: no torch, no server.

Import this module only where lm-eval is installed; `palmscale.evals.lm_eval_tasks` does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM

from palmscale.evals.candidate import Candidate
from palmscale.infer.continuation import TextRequest
from palmscale.infer.likelihoods import Pair
from palmscale.infer.text import encode_prompt

_MAX_TOKENS = 256  # where a task names no other number, as in lm-eval's own models
_SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")


class CandidateLM(TemplateLM):
    """What lm-eval asks of a model.

    `world_size` stays 1: with several processes, each makes the same calls on the same requests.
    lm-eval would import torch to gather results otherwise.

    Args:
        candidate: the model under evaluation.
    """

    def __init__(self, candidate: Candidate) -> None:
        super().__init__()
        self._candidate = candidate

    @property
    def eot_token_id(self) -> int:
        """Returns the id that ends a document."""
        return self._candidate.vocabulary.eod_id

    @property
    def prefix_token_id(self) -> int:
        """Returns the id that begins every sequence."""
        return self._candidate.vocabulary.bos_id

    @property
    def max_length(self) -> int:
        """Returns the tokens that the model sees at once."""
        return self._candidate.context_length

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **keywords: Any
    ) -> list[int]:
        """Returns the ids of a text, after bos unless `add_special_tokens` is False.

        Every row in training begins with bos, and so does every prompt of the server.
        """
        ids = encode_prompt(self._candidate.vocabulary, string).tolist()
        return ids[1:] if add_special_tokens is False else ids

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Returns (log-probability of the continuation, whether it is greedy) of each request."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **keywords: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Pair(context, continuation) for _, context, continuation in requests]
        return [tuple(one) for one in self._candidate.likelihoods(pairs)]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns the log-probability of each whole text, in windows."""
        texts = [self.tok_encode(request.args[0])[1:] for request in requests]
        return self._candidate.rolling_likelihoods(texts)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Returns the text that continues each context, up to a string of its `until`."""
        return self._candidate.continuations([_text_request(*one.args) for one in requests])


def _text_request(context: str, settings: Mapping[str, Any]) -> TextRequest:
    until = settings.get("until") or []
    until = [until] if isinstance(until, str) else until
    temperature = float(settings.get("temperature") or 0.0)
    return TextRequest(
        prompt=context,
        max_tokens=int(settings.get("max_gen_toks") or settings.get("max_tokens") or _MAX_TOKENS),
        # A task may state a temperature beside `do_sample: false`, which wins.
        temperature=0.0 if settings.get("do_sample") is False else temperature,
        stop=tuple(stop for stop in until if stop),
        **{name: settings[name] for name in _SAMPLING if settings.get(name) is not None},
    )
