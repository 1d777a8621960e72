"""What a client asks the form of the answer to be: a JSON schema or a regular expression."""

from typing import Any

from palmscale.infer.request import Guide
from palmscale.serve.body import CompletionBody
from palmscale.serve.refusal import Refusal
from palmscale.serve.served import Served

_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def guide_of(body: CompletionBody, served: Served) -> Guide | None:
    """Returns a new guide for one sequence; None: the body asks for no form.

    Raises:
        Refusal: the form is not known, or the server lacks the extra `guided`; 400.
        UserError: the schema or the regular expression is wrong.
    """
    raise NotImplementedError
