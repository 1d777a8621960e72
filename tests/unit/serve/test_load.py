"""From the folder of a run to what a server offers."""

import jax
import pytest
from flax import linen as nn
from small_run import MODEL

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.infer.request import Request
from palmscale.partition.shardings import unbox
from palmscale.run.trained import Trained
from palmscale.serve import load as module
from palmscale.serve.load import load_served


def loads(monkeypatch, model, params):
    """Has `load` return this model, whatever the folder."""
    trained = Trained(
        model=model, params=params, vocabulary=ByteVocabulary(), step=1, meta={}, layout=None
    )
    monkeypatch.setattr(module, "load", lambda *arguments, **keywords: trained)


def test_a_model_is_served_under_the_name_of_its_folder(monkeypatch):
    params = unbox(MODEL.init(jax.random.key(0), jax.numpy.zeros((1, 1), int))["params"])
    loads(monkeypatch, MODEL, params)
    served = load_served("runs/mine/", slots=2, context_length=12)
    assert (served.name, served.slots, served.context_length) == ("mine", 2, 12)
    assert served.num_tokens == MODEL.num_tokens and not served.engine.busy
    served.engine.submit(Request(prompt=[0, 5], max_tokens=3))
    assert sum(len(output.tokens) for _ in range(5) for output in served.engine.step()) == 3


def test_a_module_that_cannot_generate_is_refused_in_one_line(monkeypatch):
    class Deaf(nn.Module):
        num_tokens: int = 259

    loads(monkeypatch, Deaf(), {"a": jax.numpy.zeros(1)})
    with pytest.raises(UserError, match="Deaf cannot generate text: it has no `extend"):
        load_served("runs/mine")
