"""The body of a completion request: its fields, their types, and an error that names the field."""

from typing import Annotated, Any, TypeVar

import pydantic

from palmscale.run.nearest import did_you_mean
from palmscale.serve.refusal import Refusal

Body = TypeVar("Body", bound=pydantic.BaseModel)

_SHOWN = 80  # characters of a wrong value


def _prompts(value: Any) -> list[str | list[int]]:
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("expected a text, a list of token ids, or a list of either")
    for number, prompt in enumerate(value):
        if not isinstance(prompt, str) and not _is_ids(prompt):
            raise ValueError(f"prompt[{number}] is neither a text nor a list of token ids")
    return value


def _is_ids(value: Any) -> bool:
    # A bool is an int to Python.
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _stops(value: Any) -> list[str]:
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError("expected a text, or a list of texts, none of them empty")
    return value


def _token_bias(value: Any) -> dict[int, float]:
    is_bias = isinstance(value, dict) and all(
        key.isdecimal() and len(key) < 10 and type(bias) in (int, float)
        for key, bias in value.items()
    )
    if not is_bias:
        raise ValueError('expected token ids with a number each, as in {"42": -100}')
    return {int(key): float(bias) for key, bias in value.items()}


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class StreamOptions(_Strict):
    """Options of a stream."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's: usage so far in every event
    include_obfuscation: bool | None = None  # there is none to leave out


class CompletionBody(_Strict):
    """The body of `/v1/completions`. A field that is null or absent has its default.

    Ranges are those of `palmscale.infer.sampling.Sampling` and `palmscale.infer.request.Request`,
    which check them.
    """

    prompt: Annotated[list[str | list[int]], pydantic.BeforeValidator(_prompts)]
    model: str | None = None
    max_tokens: int | None = None
    n: Annotated[int, pydantic.Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: bool | Annotated[int, pydantic.Field(ge=0)] | None = None
    stop: Annotated[list[str], pydantic.BeforeValidator(_stops)] | None = None
    seed: Annotated[int, pydantic.Field(ge=-(2**63), lt=2**64)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Annotated[dict[int, float], pydantic.BeforeValidator(_token_bias)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, pydantic.Field(ge=0)] | None = None
    response_format: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    user: str | None = None  # of OpenAI's accounting; ignored
    best_of: int | None = None
    suffix: str | None = None


class TokenizeBody(_Strict):
    """The body of `/tokenize`."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None  # every prompt gets its bos where it is decoded


class DetokenizeBody(_Strict):
    """The body of `/detokenize`."""

    tokens: list[int]
    model: str | None = None


def parse(kind: type[Body], content: bytes) -> Body:
    """Returns the checked body of a request.

    Raises:
        Refusal: it is not JSON, or a field is unknown, missing or wrong; 400.
    """
    try:
        return kind.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise _refusal(kind, error.errors(include_url=False)[0]) from None


def _refusal(kind: type[pydantic.BaseModel], error: Any) -> Refusal:
    path = [str(part) for part in error["loc"]]
    field = path[0] if path else None
    if error["type"] == "json_invalid":
        return Refusal(400, f"the body is not valid JSON: {error['ctx']['error']}.")
    if field is None:
        return Refusal(400, "the body is not a JSON object; send one, with a field `prompt`.")
    if error["type"] == "missing":
        return Refusal(400, f"{'.'.join(path)} is missing; it is required.", param=field)
    if error["type"] == "extra_forbidden":
        near = did_you_mean(path[-1], list(kind.model_fields)) if len(path) == 1 else ""
        return Refusal(
            400, f"{'.'.join(path)[:_SHOWN]} is not a known field{near or '.'}", param=field
        )
    wrong = repr(error["input"])
    wrong = wrong if len(wrong) <= _SHOWN else f"{wrong[:_SHOWN]}…"
    said = error["msg"].removeprefix("Value error, ")
    return Refusal(400, f"{field}={wrong}: {said[0].lower()}{said[1:]}.", param=field)
