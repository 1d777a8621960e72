"""A run begins with another run's parameters only where they mean the same."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_sentencepiece
from small_run import MODEL

import palmscale
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.errors import UserError
from palmscale.run.quantize import quantize


@pytest.fixture
def warm(result, workdir, small_run):
    """The small run, for one step, with the first parameters of the finished one."""
    training = dataclasses.replace(small_run.training, steps=1)
    start = WarmStart(workdir=str(workdir))
    return dataclasses.replace(small_run, training=training, warm_start=start)


def fine_tune(run, folder):
    """The run on packed examples, with dropout."""
    lines = [json.dumps({"q": f"{n}+{n}=", "text": str(2 * n)}) for n in range(200)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    source = Jsonl(files=str(folder / "a.jsonl"), prompt_key="q")
    data = dataclasses.replace(
        run.data,
        corpus=Corpus(source=source, held_out_fraction=0.1),
        packing="segments",
        cache_directory=str(folder),
    )
    model = run.model.clone(dropout=0.5)
    return dataclasses.replace(run, data=data, model=model)


def with_steps(run, steps):
    return dataclasses.replace(run, training=dataclasses.replace(run.training, steps=steps))


def test_a_fine_tune_that_stops_and_resumes_ends_bit_for_bit_equal(warm, tmp_path):
    run = fine_tune(warm, tmp_path)
    palmscale.train(with_steps(run, 4), tmp_path / "whole")
    for steps in (2, 4):
        result = palmscale.train(with_steps(run, steps), tmp_path / "parts")
    whole, parts = (palmscale.load(tmp_path / name) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert result.metrics["eval_bits_per_byte"] > 0
    assert 0 < result.metrics["tokens"] < 8 * 32 / 2  # half of each example is its prompt


def with_sentencepiece(run, folder):
    """The run with another vocabulary."""
    model = tiny_sentencepiece.train(folder / "tiny.model")
    data = dataclasses.replace(run.data, sentencepiece_model=model)
    return dataclasses.replace(
        run, data=data, model=MODEL.clone(num_tokens=304, padded_tokens=None)
    )


def test_another_vocabulary_is_refused_in_one_line_before_anything_is_compiled(
    warm, tmp_path, monkeypatch
):
    monkeypatch.setattr("palmscale.train.compile.CompiledStep.compile", None)
    with pytest.raises(UserError) as caught:
        palmscale.train(with_sentencepiece(warm, tmp_path), tmp_path / "run")
    told = str(caught.value)
    assert "was trained with the vocabulary bytes (259 tokens, digest" in told
    assert "but the rows have sentencepiece (" in told and "\n" not in told
    assert "or set WarmStart.fresh=('embedding',) to train a new token table" in told


def test_a_fresh_token_table_may_have_another_vocabulary(warm, tmp_path):
    run = with_sentencepiece(warm, tmp_path)
    start = dataclasses.replace(run.warm_start, fresh=("embedding",))
    run = dataclasses.replace(run, warm_start=start)
    assert palmscale.train(run, tmp_path / "run").step == 1


def test_the_base_is_never_the_runs_own_folder(warm, workdir, tmp_path):
    (tmp_path / "link").symlink_to(workdir)
    for own in (workdir, tmp_path / "link", workdir / "../run"):
        with pytest.raises(UserError, match="is the run's own folder; choose another workdir"):
            palmscale.train(warm, own)


def test_quantized_weights_are_no_base(warm, workdir, tmp_path):
    quantize(workdir, tmp_path / "int8", weights="int8")
    start = WarmStart(workdir=str(tmp_path / "int8"))
    with pytest.raises(UserError, match="are int8: they generate, score and serve"):
        palmscale.train(dataclasses.replace(warm, warm_start=start), tmp_path / "run")
