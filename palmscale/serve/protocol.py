"""From the body of a completion request to the sequences that an engine decodes."""

import dataclasses
import secrets
from collections.abc import Sequence

import numpy as np

from palmscale.errors import UserError
from palmscale.infer.request import Request, sample_seed
from palmscale.infer.sampling import Sampling
from palmscale.infer.text import encode_prompt
from palmscale.serve.body import CompletionBody
from palmscale.serve.guides import Form, form_of, guide_of
from palmscale.serve.limits import Limits
from palmscale.serve.refusal import Refusal, from_error
from palmscale.serve.served import Served

DEFAULT_MAX_TOKENS = 16  # OpenAI's
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """One sequence that a client asks for, and how its answer is to look.

    Attributes:
        request: for the engine.
        form: that its guide keeps to.
        text: of the prompt.
        ids: of the prompt, with bos.
        added_bos: 1 if the client does not know of the bos id, else 0.
        echo: the answer begins with the prompt.
        log_probabilities: the answer tells them.
        stop: texts that end the answer and are not part of it.
    """

    request: Request
    form: Form | None
    text: str
    ids: np.ndarray
    added_bos: int
    echo: bool
    log_probabilities: bool
    stop: Sequence[str]

    @property
    def prompt_tokens(self) -> int:
        """Returns the tokens of the prompt as the client counts them."""
        return len(self.ids) - self.added_bos


def check_model(name: str | None, served: Served) -> None:
    """Raises Refusal, 404, if a client asks for another model than the one that is served."""
    if name is not None and name != served.name:
        raise Refusal(
            404,
            f"the model {name[:200]!r} does not exist; this server has {served.name!r}.",
            param="model",
            code="model_not_found",
        )


def sequences(body: CompletionBody, served: Served, limits: Limits) -> list[Asked]:
    """Returns the sequences that a body asks for: n of each prompt, one prompt after another.

    Raises:
        Refusal: the model does not exist, or a field is out of range or cannot be had; 404, 400.
    """
    check_model(body.model, served)
    _refuse_what_is_not_offered(body)
    _check_limits(body, limits)
    number, most = len(body.prompt) * (body.n or 1), served.slots + limits.waiting_sequences
    if number > most:
        raise Refusal(
            400,
            f"the request asks for {number} sequences; this server takes at most {most} at a time.",
            param="n" if len(body.prompt) <= most else "prompt",
        )
    form = form_of(body)
    try:
        return [asked for prompt in body.prompt for asked in _of_prompt(prompt, body, served, form)]
    except UserError as error:
        raise from_error(error) from None


def _refuse_what_is_not_offered(body: CompletionBody) -> None:
    if body.best_of not in (None, body.n or 1):
        raise Refusal(400, "best_of is not supported; leave it out, and use n.", param="best_of")
    if body.suffix:
        raise Refusal(
            400, "suffix is not supported: the model only continues text.", param="suffix"
        )
    if body.stream_options is not None and not body.stream:
        raise Refusal(
            400, "stream_options needs stream=true; leave it out.", param="stream_options"
        )
    if body.max_tokens == 0 and not body.echo:
        raise Refusal(
            400, "max_tokens=0 leaves nothing to answer without echo=true.", param="max_tokens"
        )


def _check_limits(body: CompletionBody, limits: Limits) -> None:
    if int(body.logprobs or 0) > limits.top_log_probabilities:
        raise Refusal(
            400,
            f"logprobs={body.logprobs} must be at most {limits.top_log_probabilities}.",
            param="logprobs",
        )
    if len(body.stop or ()) > limits.stop_strings:
        raise Refusal(
            400,
            f"stop has {len(body.stop)} texts; use at most {limits.stop_strings}.",
            param="stop",
        )


def _of_prompt(
    prompt: str | list[int],
    body: CompletionBody,
    served: Served,
    form: Form | None,
) -> list[Asked]:
    ids, added_bos = _ids(prompt, served)
    text = prompt if isinstance(prompt, str) else served.vocabulary.decode(ids)
    max_tokens = _max_tokens(body, len(ids), served)
    log_probabilities = body.logprobs is not None and body.logprobs is not False
    scored = bool(body.echo) and log_probabilities and len(ids) > 1
    seed = secrets.randbits(63) if body.seed is None else body.seed
    return [
        Asked(
            request=Request(
                prompt=ids,
                max_tokens=max_tokens,
                sampling=_sampling(body, served),
                seed=sample_seed(seed, number),
                stop_ids=frozenset() if body.ignore_eos else frozenset({served.vocabulary.eod_id}),
                min_tokens=body.min_tokens or 0,
                top_log_probabilities=int(body.logprobs or 0) if log_probabilities else None,
                score_from=1 if scored else None,
                guide=guide_of(form, served.vocabulary),
            ),
            form=form,
            text=text,
            ids=ids,
            added_bos=added_bos,
            echo=bool(body.echo),
            log_probabilities=log_probabilities,
            stop=body.stop or (),
        )
        for number in range(body.n or 1)
    ]


def _ids(prompt: str | list[int], served: Served) -> tuple[np.ndarray, int]:
    """Returns the ids of a prompt after the bos id, and 1 if that had to be added."""
    if isinstance(prompt, str):
        return encode_prompt(served.vocabulary, prompt), 1
    check_ids(prompt, served, field="prompt")
    bos_id = served.vocabulary.bos_id
    added_bos = int(prompt[0] != bos_id)
    return np.asarray([bos_id] * added_bos + prompt, np.int32), added_bos


def check_ids(ids: Sequence[int], served: Served, *, field: str) -> None:
    """Raises Refusal, 400, for token ids that the model does not have."""
    if wrong := [token_id for token_id in ids if not 0 <= token_id < served.num_tokens]:
        raise Refusal(
            400,
            f"{field} has the token id {str(wrong[0])[:20]}; ids are 0 to {served.num_tokens - 1}.",
            param=field,
        )


def _max_tokens(body: CompletionBody, prompt_tokens: int, served: Served) -> int:
    room = served.context_length - prompt_tokens
    if room < (0 if body.max_tokens == 0 else 1):
        raise Refusal(
            400,
            f"the prompt has {prompt_tokens} tokens with the one that begins it; the context"
            f" length is {served.context_length}, so shorten it.",
            param="prompt",
            code="context_length_exceeded",
        )
    if body.max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if body.max_tokens > room:
        raise Refusal(
            400,
            f"max_tokens={body.max_tokens} exceeds the {room} tokens that the prompt leaves of the"
            f" context length, {served.context_length}.",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return body.max_tokens


def _sampling(body: CompletionBody, served: Served) -> Sampling:
    given = {name: getattr(body, name) for name in _SAMPLING if getattr(body, name) is not None}
    if given.get("top_k") in (0, -1):  # other servers' spelling of no limit
        del given["top_k"]
    bias = tuple((body.logit_bias or {}).items())
    check_ids([token_id for token_id, _ in bias], served, field="logit_bias")
    return Sampling(**given, logit_bias=bias)
