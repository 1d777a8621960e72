"""What a client asks the form of the answer to be: a JSON schema or a regular expression."""

from palmscale.infer.request import Guide
from palmscale.serve.body import CompletionBody
from palmscale.serve.served import Served


def guide_of(body: CompletionBody, served: Served) -> Guide | None:
    """Returns a new guide for one sequence; None: the body asks for no form."""
    return None
