"""What the engine is asked to do, also as text for the other processes of a job."""

import dataclasses

import numpy as np

from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.serve.guides import Form
from palmscale.serve.orders import Cancel, End, Submit, read, written

FORM = Form(field="guided_regex", kind="regex", grammar="(é|no)")


def test_every_field_of_an_order_comes_back():
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.9, logit_bias=((5, -100.0), (6, 1.5)))
    request = Request(
        prompt=np.array([0, 5, 6], np.int32), max_tokens=7, sampling=sampling, seed=2**63,
        stop_ids=frozenset({1, 9}), min_tokens=2, top_log_probabilities=3, score_from=1,
    )  # fmt: skip
    orders = [Submit(4, request, FORM), Cancel(5), Submit(6, request), End()]
    found = read(written(orders), lambda form: form and f"guide of {form.grammar}")
    assert found[1] == Cancel(5) and found[3] == End() and found[0].form == FORM
    assert found[0].request.guide == "guide of (é|no)" and found[2].request.guide is None
    for order in (found[0], found[2]):
        for field in dataclasses.fields(Request):
            if field.name == "prompt":
                assert order.request.prompt.dtype == np.int32
                assert order.request.prompt.tolist() == [0, 5, 6]
            elif field.name != "guide":
                assert getattr(order.request, field.name) == getattr(request, field.name)


def test_nothing_to_do_is_text_as_well():
    assert read(written([]), lambda form: None) == []
