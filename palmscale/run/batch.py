"""Batches: JSON lines of prompts or texts in, a line of answers for each out, by one model."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Required, TypedDict

from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import shared_text
from palmscale.errors import UserError
from palmscale.infer.continuation import Piece, TextRequest, context_length_of, continued
from palmscale.observe import log
from palmscale.run.json_lines import Answers, Id, Line, as_line, named, read_lines
from palmscale.run.trained import Trained
from palmscale.storage.place import local_path

_READ_SECONDS = 86_400.0  # what is read may come from a program that still writes it

Answer = Mapping[str, Any]
Key = tuple[Id, int]  # a line's id, and which of its samples
Done = Collection[Key]


# The fields of a `TextRequest`, with those that JSON has in another form.
PromptLine = TypedDict(  # type: ignore[misc]
    "PromptLine",
    TextRequest.__annotations__
    | {"prompt": Required[str], "stop": str | list[str], "logit_bias": dict[str, float]},
    total=False,
)


class TextLine(TypedDict):
    """A line to score."""

    text: str


def answer_lines(
    peers: Peers,
    *,
    read: Callable[[], str],
    source: str,
    form: Any,
    out: str | None,
    write: Callable[[str], None],
    answer: Callable[[Sequence[Line], Done], Iterator[Answer]],
) -> None:
    """Answers each line once; process 0 reads and writes for all.

    Args:
        peers: the processes that answer together.
        read: returns the lines.
        source: their name, for messages.
        form: see `read_lines`.
        out: the file of the answers, in the order in which they are known. What it has is not
            answered again. None: they are written by `write` instead.
        write: writes a line.
        answer: yields the answers of those lines that are not done.

    Raises:
        UserError: a line is wrong, or the file cannot be written; what it has stays.
    """
    text = shared_text(peers, "the lines", read, _READ_SECONDS)
    lines = read_lines(text, source, form)
    files: list[Answers] = []
    with contextlib.ExitStack() as opened:

        def done_so_far() -> str:
            if out is None:
                return "[]"
            files.append(opened.enter_context(contextlib.closing(_opened(out, source))))
            return json.dumps([(told["id"], told.get("sample", 0)) for told in files[0].written])

        done_text = shared_text(peers, "the answers", done_so_far, _READ_SECONDS)
        done = {(line_id, sample) for line_id, sample in json.loads(done_text)}
        if done:
            log.say(f"{out} has {len(done)} answers; the others follow.")
        for told in answer(lines, done):
            if files:
                files[0].write(told)
            elif peers.index == 0:
                write(as_line(told))


def generate_lines(
    load: Callable[[], Trained],
    lines: Sequence[Line],
    done: Done = frozenset(),
    *,
    defaults: TextRequest = TextRequest(),
    num_samples: int = 1,
    slots: int = 32,
    reuse_prefixes: bool = False,
) -> Iterator[Answer]:
    """Yields the texts that continue the lines' prompts, as each is finished.

    An answer depends on its line, the defaults and the number of slots, not on what else is under
    way.

    Args:
        load: returns the model, whose parameters are taken over.
        lines: of the form `PromptLine`.
        done: what needs no answer.
        defaults: for the fields that a line does not have. The seed of a line without its own
            follows from this one and the line's id.
        num_samples: texts for each line.
        slots: texts that are written at once.
        reuse_prefixes: whether equal beginnings of prompts are computed once. That is faster, and
            where two tokens are equally likely, rounding may then decide between them.

    Raises:
        UserError: a line is wrong; the message names it.
    """
    asked = [(line, request_of(line, defaults)) for line in lines]
    todo = [
        (line, n, sample)
        for line, request in asked
        for n, sample in enumerate(request.sampled(num_samples))
        if (line.id, n) not in done
    ]
    if not todo:
        return
    trained = load()
    encoded = []
    for line, request in asked:
        with named(line):
            encoded.append(request.encoded(trained.vocabulary))
    engine = trained.engine(
        slots=slots,
        context_length=context_length_of(encoded),
        reuse_prefixes=reuse_prefixes,
        donate=True,
    )
    for (line, _), ids in zip(asked, encoded, strict=True):
        with named(line):
            engine.check(ids)
    pieces: dict[int, list[Piece]] = {}
    requests = (request for _, _, request in todo)
    for number, piece in continued(engine, trained.vocabulary, requests):
        pieces.setdefault(number, []).append(piece)
        if piece.finish_reason:
            line, sample, request = todo[number]
            which = {"id": line.id} | ({"sample": sample} if num_samples > 1 else {})
            yield which | written(pieces.pop(number), request)


def request_of(line: Line, defaults: TextRequest) -> TextRequest:
    """Returns the request of a line of the form `PromptLine`.

    Raises:
        UserError: a value is out of range.
    """
    fields = {"seed": _seed(defaults.seed, line.id)} | dict(line.fields)
    with named(line):
        if bias := fields.pop("logit_bias", None):
            if wrong := [token_id for token_id in bias if not token_id.isdecimal()]:
                raise UserError(f"logit_bias names {wrong[0]!r}; expected a token id.")
            fields["logit_bias"] = {int(token_id): value for token_id, value in bias.items()}
        return dataclasses.replace(defaults, **fields)


def written(pieces: Sequence[Piece], request: TextRequest) -> Answer:
    """Returns a text as an answer: `text`, `finish_reason`, `tokens`, and what is asked for."""
    tokens = [token for piece in pieces for token in piece.tokens]
    answer: dict[str, Any] = {
        "text": "".join(piece.text for piece in pieces),
        "finish_reason": pieces[-1].finish_reason,
        "tokens": [token.id for token in tokens],
    }
    if request.top_logprobs is not None:
        answer["logprobs"] = [_number(token.log_probability) for token in tokens]
    if request.top_logprobs:
        answer["top_logprobs"] = [
            [[token_id, _number(value)] for token_id, value in token.top] for token in tokens
        ]
    return answer


def score_lines(
    load: Callable[[], Trained],
    lines: Sequence[Line],
    done: Done = frozenset(),
    *,
    context_length: int | None = None,
) -> Iterator[Answer]:
    """Yields the scores of the lines' texts; see `Trained.score`.

    Args:
        load: returns the model.
        lines: of the form `TextLine`.
        done: what needs no answer.
        context_length: tokens of a window; None: of a row in training.
    """
    todo = [line for line in lines if (line.id, 0) not in done]
    if not todo:
        return
    trained = load()
    length = context_length or trained.meta["sequence_length"]
    for line in todo:
        with named(line):
            text = line.fields["text"]
            (score,) = trained.score([text], context_length=length)
        yield {
            "id": line.id,
            "logprob": _number(score.log_probability),
            "bits_per_byte": _number(score.bits_per_byte),
            "tokens": score.token_ids.tolist(),
            "logprobs": [_number(value) for value in score.log_probabilities.tolist()],
        }


def _opened(out: str, source: str) -> Answers:
    if "://" in out:
        raise UserError(f"{out} is not on a disk; write there, and copy the file.")
    path = local_path(out)
    if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise UserError(f"{out} holds the lines themselves; write the answers to another file.")
    return Answers(path)


def _seed(seed: int, line_id: Id) -> int:
    digest = hashlib.sha256(f"{seed} {json.dumps(line_id)}".encode()).digest()
    return int.from_bytes(digest[:8])


def _number(value: float | None) -> float | None:
    """Returns a number as JSON has it, which knows neither nan nor infinity."""
    return round(value, 6) if value is not None and math.isfinite(value) else None
