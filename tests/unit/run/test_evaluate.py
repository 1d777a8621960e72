import dataclasses
import json
import math
from types import SimpleNamespace

import pytest

import palmscale
from palmscale.errors import UserError
from palmscale.run.evaluate import eval_loss, evaluate_each, perplexity, with_perplexity
from palmscale.run.session import open_session


def test_evaluating_gives_what_training_said(small_run, result, workdir):
    found = palmscale.evaluate(small_run, workdir)
    assert found.step == 4 and found.leads
    saved = json.loads((workdir / "checkpoints/4/MANIFEST.json").read_text())["metrics"]
    saved["eval_perplexity"] = math.exp(saved["eval_loss"])
    assert found.metrics == pytest.approx(saved, rel=1e-4)
    assert palmscale.evaluate(small_run, workdir, checkpoint=2).step == 2


def test_all_checkpoints_are_evaluated_oldest_first(small_run, result, workdir):
    found = evaluate_each(small_run, workdir)
    assert [one.step for one in found] == [2, 4]
    assert found[1].metrics == palmscale.evaluate(small_run, workdir).metrics


def test_the_average_of_checkpoints_is_evaluated(small_run, result, workdir):
    (found,) = evaluate_each(small_run, workdir, average=2)  # of all: the first has none before it
    assert found == palmscale.evaluate(small_run, workdir, average=2) and found.step == 4
    assert found.metrics != palmscale.evaluate(small_run, workdir).metrics
    with pytest.raises(UserError, match="average=3 is out of range"):
        palmscale.evaluate(small_run, workdir, average=3)


def test_perplexity_follows_each_loss_of_all_rows_and_of_each_source():
    metrics = {"eval_loss": 2.0, "eval_accuracy": 0.5, "eval_loss/books": 1.0}
    expected = {
        "eval_loss": 2.0,
        "eval_perplexity": math.exp(2.0),
        "eval_accuracy": 0.5,
        "eval_loss/books": 1.0,
        "eval_perplexity/books": math.e,
    }
    found = with_perplexity(metrics)
    assert found == pytest.approx(expected) and list(found) == list(expected)
    assert perplexity(1e4) == math.inf


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
