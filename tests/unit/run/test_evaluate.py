import dataclasses
import json
from types import SimpleNamespace

import pytest

import palmscale
from palmscale.errors import UserError
from palmscale.run.evaluate import eval_loss
from palmscale.run.session import open_session


def test_evaluating_gives_what_training_said(small_run, result, workdir):
    found = palmscale.evaluate(small_run, workdir)
    assert found.step == 4 and found.leads
    saved = json.loads((workdir / "checkpoints/4/MANIFEST.json").read_text())["metrics"]
    assert found.metrics == pytest.approx(saved, abs=1e-5)
    assert palmscale.evaluate(small_run, workdir, checkpoint=2).step == 2


def test_where_nothing_is_held_out_the_error_names_the_field(small_run, result, workdir):
    corpus = dataclasses.replace(small_run.data.corpus, held_out_fraction=0.0)
    run = dataclasses.replace(small_run, data=dataclasses.replace(small_run.data, corpus=corpus))
    with pytest.raises(UserError, match="nothing is held out.*Corpus.held_out_fraction"):
        palmscale.evaluate(run, workdir)


def test_a_run_without_evaluation_says_so(small_run, caplog):
    training = dataclasses.replace(small_run.training, eval_sequences=0)
    with open_session(dataclasses.replace(small_run, training=training)) as session:
        evaluation = eval_loss(small_run, session, max_sequences=0)
    assert "Training.eval_sequences=0: no evaluation." in caplog.text
    assert evaluation(SimpleNamespace(step=1, params=None)) == {}
