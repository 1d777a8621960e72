"""Why a request is refused, in the shape that OpenAI's clients read."""

import pytest

from palmscale.errors import UserError
from palmscale.infer.sampling import Sampling
from palmscale.serve.refusal import Refusal, from_error


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (429, "rate_limit_error")]
    + [(404, "invalid_request_error"), (500, "server_error"), (503, "server_error")],
)
def test_the_body_has_the_shape_of_openai(status, kind):
    body = Refusal(status, "no.", param="n", code="c").body()
    assert body == {"error": {"message": "no.", "type": kind, "param": "n", "code": "c"}}


def test_it_says_when_to_try_again():
    assert Refusal(429, "full.", retry_after_seconds=3).headers == {"Retry-After": "3"}


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 2}, {"logit_bias": ((1, 200),)}])
def test_a_user_error_names_its_field(wrong):
    with pytest.raises(UserError) as raised:
        Sampling(**wrong)
    refusal = from_error(raised.value)
    assert refusal.status == 400 and refusal.param == next(iter(wrong))


def test_what_else_went_wrong_is_not_for_the_client():
    refusal = from_error(ZeroDivisionError("secret"))
    assert refusal.status == 500 and "secret" not in str(refusal.body())
