import dataclasses
import json

import pytest

import palmscale
from palmscale.errors import UserError


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
