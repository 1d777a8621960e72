"""What a client asks the form of the answer to be: a JSON schema or a regular expression."""

import dataclasses
import functools
from typing import Any, Literal

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.guided import Guides
from palmscale.infer.request import Guide
from palmscale.serve.body import CompletionBody
from palmscale.serve.refusal import Refusal

_FIELDS = ("response_format", "guided_json", "guided_regex")
_ANY_OBJECT: dict[str, Any] = {"type": "object"}

# Preparing a vocabulary takes seconds, and the guides of all requests share it.
_guides = functools.lru_cache(maxsize=1)(Guides)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """What the text of an answer is to match.

    Attributes:
        field: of the body that asks for it.
        kind: of the grammar.
        grammar: a JSON schema, also as text, or a regular expression.
    """

    field: str
    kind: Literal["json_schema", "regex"]
    grammar: dict[str, Any] | str


def form_of(body: CompletionBody) -> Form | None:
    """Returns the form that a body asks for; None: none.

    Raises:
        Refusal: the body asks for two forms, or for one that is unknown; 400.
    """
    asked = [field for field in _FIELDS if getattr(body, field) is not None]
    if len(asked) > 1:
        raise Refusal(400, f"{asked[1]} excludes {asked[0]}; use one of them.", param=asked[1])
    if body.guided_regex is not None:
        return Form(field="guided_regex", kind="regex", grammar=body.guided_regex)
    if body.guided_json is not None:
        return Form(field="guided_json", kind="json_schema", grammar=body.guided_json)
    if body.response_format is None or body.response_format.get("type") == "text":
        return None
    schema = _schema(body.response_format)
    return Form(field="response_format", kind="json_schema", grammar=schema)


def guide_of(form: Form | None, vocabulary: Vocabulary) -> Guide | None:
    """Returns a new guide, for one sequence; None: there is no form.

    Raises:
        Refusal: the grammar is wrong, or the server lacks the extra `guided`; 400.
    """
    if form is None:
        return None
    try:
        guides = _guides(vocabulary)
        make = guides.regex if form.kind == "regex" else guides.json_schema
        return make(form.grammar)
    except UserError as error:
        raise Refusal(400, f"{form.field}: {error}", param=form.field) from None


def _schema(response_format: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON schema of OpenAI's `response_format`."""
    if response_format.get("type") == "json_object":
        return _ANY_OBJECT
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if response_format.get("type") != "json_schema" or not isinstance(schema, dict):
        raise Refusal(
            400,
            "response_format: expected a type of text, json_object, or json_schema with"
            " json_schema.schema.",
            param="response_format",
        )
    return schema
