import dataclasses

import pytest
from outgoing_model import MODEL, outgoing

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.interop.layouts import Incoming, Options
from palmscale.interop.tensors import map_values
from palmscale.observe import log
from palmscale.run.likeliest import likeliest

VOCABULARY = ByteVocabulary()


def candidate(scale, offset):
    params = outgoing(MODEL).params
    params = params | {"embedding": map_values(params["embedding"], lambda e: e * scale)}
    model = dataclasses.replace(MODEL, norm_scale_offset=offset)
    return Incoming(model=model, params=params, choice=Options(norm_scale_offset=offset))


def test_the_only_one_needs_no_text():
    only = candidate(1, 0.0)
    assert likeliest([only], VOCABULARY, ()) is only


def test_the_one_with_the_least_loss_is_chosen_and_all_losses_are_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(log, "say", said.append)
    (tmp_path / "a.txt").write_text("some text\n" * 9)
    # The larger the logits of random weights, the larger the loss.
    found = [candidate(9, 0.0), candidate(0.1, 1.0)]
    assert likeliest(found, VOCABULARY, (str(tmp_path / "*.txt"),)) is found[1]
    losses = [line for line in said if line.endswith(" nats per token")]
    assert [line.partition(":")[0] for line in losses] == [
        "norm_scale_offset=0.0",
        "norm_scale_offset=1.0",
    ]


def test_no_text_is_told_with_the_choices(tmp_path):
    found = [candidate(1, 0.0), candidate(1, 1.0)]
    with pytest.raises(UserError, match=r"norm_scale_offset=0.0; norm_scale_offset=1.0\).*text_fi"):
        likeliest(found, VOCABULARY, ())
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="has no text"):
        likeliest(found, VOCABULARY, (str(tmp_path / "*.txt"),))
