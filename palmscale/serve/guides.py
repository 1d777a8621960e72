"""What a client asks the form of the answer to be: a JSON schema or a regular expression."""

import functools
from collections.abc import Callable
from typing import Any

from palmscale.errors import UserError
from palmscale.infer.guided import Guides
from palmscale.infer.request import Guide
from palmscale.serve.body import CompletionBody
from palmscale.serve.refusal import Refusal
from palmscale.serve.served import Served

_FIELDS = ("response_format", "guided_json", "guided_regex")
_ANY_OBJECT: dict[str, Any] = {"type": "object"}

# Preparing a vocabulary takes seconds, and guides of all requests share it.
_guides = functools.lru_cache(maxsize=1)(Guides)


def guide_maker(body: CompletionBody, served: Served) -> Callable[[], Guide | None]:
    """Returns a function that makes a guide for each sequence, or None: the body asks for no form.

    Raises:
        Refusal: the form is unknown or wrong, or the server lacks the extra `guided`; 400.
    """
    asked = [field for field in _FIELDS if getattr(body, field) is not None]
    if not asked:
        return lambda: None
    field = asked[0]
    if len(asked) > 1:
        raise Refusal(400, f"{field} and {asked[1]} exclude one another; use one.", param=asked[1])
    if field == "response_format" and body.response_format.get("type") == "text":
        return lambda: None

    def make() -> Guide:
        try:
            return _guide(field, body, _guides(served.vocabulary))
        except UserError as error:
            raise Refusal(400, f"{field}: {error}", param=field) from None

    return make


def _guide(field: str, body: CompletionBody, guides: Guides) -> Guide:
    if field == "guided_regex":
        return guides.regex(body.guided_regex)
    if field == "guided_json":
        return guides.json_schema(body.guided_json)
    return guides.json_schema(_schema(body.response_format))


def _schema(response_format: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON schema of OpenAI's `response_format`."""
    if response_format.get("type") == "json_object":
        return _ANY_OBJECT
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if response_format.get("type") != "json_schema" or not isinstance(schema, dict):
        raise UserError(
            "expected a type of text, json_object, or json_schema with json_schema.schema."
        )
    return schema
