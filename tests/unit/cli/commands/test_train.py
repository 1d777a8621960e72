"""A run of two steps, by the commands that a person types: what they leave behind and say."""

import json
import math
import re
import signal
import subprocess
import time
import types

import pyarrow
import pyarrow.parquet
import pytest
import tiny_run
import zstandard

from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.cli.config.load import load_run
from palmscale.observe.reporting import METRICS
from palmscale.run.train import TrainResult
from palmscale.run.workdir import CHECKPOINTS, CONFIG, VOCABULARY


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The arguments of a run of two steps on a few KB of text, with some gin names changed."""
    folder = tmp_path_factory.mktemp("tiny")
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"def {name}(x):\n    return x + {name!r}\n" * 40)
    values = tiny_run.TINY | {
        "TEXT_FILES": f"{folder}/*.txt",
        "HELD_OUT_FRACTION": 0.3,
        "CACHE_DIRECTORY": folder / "caches",
        "TRAIN_STEPS": 2,
        "EVAL_EVERY_STEPS": 1,
        "SAVE_EVERY_STEPS": 1,
        "KEEP_LATEST": 9,
        "SAMPLE_PROMPT": "'def '",
        "EVAL_SEQUENCES": None,  # as `eval` does
        "SIMULATED_DEVICES": 2,
        "DATA": 2,
        "MODEL_PARALLEL": 1,
    }

    def arguments(command="train", **changes):
        flags = [command, "--gin_file=configs/runs/quickstart.gin", f"--workdir={folder}/my run"]
        return [*flags, *tiny_run.bindings(values | changes)]

    arguments.workdir = folder / "my run"
    return arguments


@pytest.fixture(scope="module")
def said(tiny):
    """What each command of a short history said, all in one process with two devices."""
    workdir = f"--workdir={tiny.workdir}"
    commands = {
        "begin": tiny(),
        "eval": ["eval", workdir],
        "eval best": ["eval", workdir, "--checkpoint=1"],
        "again": tiny(),
        "on another mesh": tiny(TRAIN_STEPS=3, DATA=1, MODEL_PARALLEL=2),
        "other seed": tiny(TRAIN_STEPS=4, SEED=5),
        "other seed, named": tiny(TRAIN_STEPS=4, SEED=5, ALLOW_CHANGES="('seed',)"),
        "small vocabulary": tiny(NUM_TOKENS=200),
        "eval without rows": tiny("eval", CACHE=tiny.workdir),
    }
    return dict(zip(commands, tiny_run.run_each(commands.values(), "pass"), strict=True))


def test_training_leaves_all_that_is_needed_to_go_on(tiny, said):
    assert said["begin"].returncode == 0, said["begin"].stderr
    assert {path.name for path in tiny.workdir.iterdir()} >= {
        CONFIG,
        METRICS,
        VOCABULARY,
        CHECKPOINTS,
    }
    meta = json.loads((tiny.workdir / "checkpoints/2/meta.json").read_text())
    assert meta["mesh"] == {"replica": 1, "data": 2, "model": 1}
    assert meta["identity"]["model"]["dim"] == 32 and meta["vocabulary"]["kind"] == "bytes"
    assert {"python", "palmscale", "jax", "orbax-checkpoint"} <= meta["versions"].keys()
    assert "PaLM.dim = 32" in meta["operative_config"]


def test_training_says_where_it_begins_and_what_to_do_next(tiny, said):
    err = said["begin"].stderr
    assert re.search(r"Beginning at step 0: [\d,]+ parameters on 2 cpu device\(s\), data=2", err)
    assert "A sample:\ndef " in err
    assert f"Next: palmscale generate '--workdir={tiny.workdir}' '--prompt=def '" in err


def test_the_saved_configuration_is_the_run_again(tiny, said):
    again = load_run([str(tiny.workdir / CONFIG)], [])
    load.reset()
    assert again.training.steps == 4 and again.model.dim == 32 and again.training.seed == 5


def test_eval_needs_the_workdir_alone_and_says_what_training_said(tiny, said):
    for name, step in (("eval", 2), ("eval best", 1)):
        assert said[name].returncode == 0, said[name].stderr
        first, *values = said[name].stdout.splitlines()
        assert first == f"step {step}"
        told = {name: float(value) for name, value in map(str.split, values)}
        manifest = (tiny.workdir / f"checkpoints/{step}/MANIFEST.json").read_text()
        saved = json.loads(manifest)["metrics"]
        saved["eval_perplexity"] = math.exp(saved["eval_loss"])
        assert told.keys() == saved.keys()
        assert all(math.isclose(told[key], saved[key], rel_tol=1e-5, abs_tol=1e-4) for key in told)


def test_a_finished_run_trains_no_further(said):
    assert said["again"].returncode == 0, said["again"].stderr
    assert "Resuming after step 2" in said["again"].stderr
    assert "There is nothing to do" in said["again"].stderr


def test_a_run_goes_on_with_more_steps_on_another_mesh(tiny, said):
    assert said["on another mesh"].returncode == 0, said["on another mesh"].stderr
    assert "model=2" in said["on another mesh"].stderr
    assert [line["step"] for line in tiny_run.metrics(tiny.workdir)] == [1, 2, 3, 4]


def test_another_run_is_refused_unless_the_change_is_named(said):
    assert said["other seed"].returncode == 2
    assert "seed: 0 -> 5" in said["other seed"].stderr
    assert said["other seed, named"].returncode == 0
    assert "resuming with seed changed from 0 to 5" in said["other seed, named"].stderr


def test_a_vocabulary_that_the_model_has_no_ids_for_is_refused(said):
    assert said["small vocabulary"].returncode == 2
    assert "259 tokens and PaLM.num_tokens=200" in said["small vocabulary"].stderr


def test_a_cache_that_is_none_is_refused(said):
    assert said["eval without rows"].returncode == 2
    assert "manifest.json" in said["eval without rows"].stderr


def test_interrupted_training_saves_and_says_how_to_go_on(tiny, tmp_path, said):
    workdir = tmp_path / "run"
    line = [*tiny(TRAIN_STEPS=100_000, EVAL_EVERY_STEPS=None), f"--workdir={workdir}"]
    with tiny_run.start(*line) as process:
        try:
            metrics, end = workdir / METRICS, time.monotonic() + 60
            while not (metrics.exists() and metrics.read_text()) and time.monotonic() < end:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 130, err
    wanted = (
        rf"interrupted: saved step (\d+); to continue from {workdir}, run the same command again"
    )
    assert (told := re.search(wanted, err)) and "Traceback" not in err
    assert int(told[1]) == tiny_run.steps(workdir)[-1] == len(tiny_run.metrics(workdir))


@pytest.mark.parametrize("can", [True, False])
def test_generating_is_suggested_only_with_a_model_that_can(can, monkeypatch, capsys, tmp_path):
    run = load_run(["configs/runs/quickstart.gin"], [])
    load.reset()
    model = run.model if can else types.SimpleNamespace()
    run = types.SimpleNamespace(model=model, reporting=run.reporting, training=run.training)
    result = TrainResult(step=3, metrics={"loss": 1.0}, workdir=tmp_path, finished=True)
    monkeypatch.setattr("palmscale.cli.config.load.load_run", lambda *_: run)
    monkeypatch.setattr("palmscale.cli.config.load.operative_config", lambda: "")
    monkeypatch.setattr("palmscale.run.train.train", lambda *_, **__: result)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main.run(["train", "--gin_file=x.gin", f"--workdir={tmp_path}"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    err = capsys.readouterr().err
    assert "Trained 3 steps; checkpoints are in" in err and ("palmscale generate" in err) == can


MIXTURE = """\
include 'configs/runs/quickstart.gin'

Data.corpus = None
Data.components = (@pile/Component(), @parquet/Component(), @lone/Component())
Component.corpus = @Corpus()
pile/Component.name = 'pile'
pile/Component.weight = 3
pile/Corpus.source = @Pile()
pile/Pile.files = '{folder}/pile.jsonl.zst'
parquet/Component.name = 'parquet'
parquet/Component.weight = 1
parquet/Corpus.source = @Parquet()
parquet/Parquet.files = '{folder}/*.parquet'
lone/Component.name = 'lone'
lone/Component.weight = ((0, 4), (2, 0))
lone/Corpus.source = @TextFiles()
lone/TextFiles.files = '{folder}/lone.txt'
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The folder of a run on The Pile's format, Parquet and a text file, and what was said."""
    folder = tmp_path_factory.mktemp("mixed")
    texts = [f"def f{number}(x):\n    return x + {number}\n" * 8 for number in range(60)]
    lines = [{"text": text, "meta": {"pile_set_name": "Github"}} for text in texts]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pile.jsonl.zst").write_bytes(zstandard.compress(content.encode()))
    for name in "ab":
        table = pyarrow.table({"text": [f"{name} {text}" for text in texts]})
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
    (folder / "lone.txt").write_text("Alone is the text.\n" * 100)
    (folder / "mixture.gin").write_text(MIXTURE.format(folder=folder))
    values = tiny_run.TINY | {
        "CACHE_DIRECTORY": folder / "caches",
        "TRAIN_STEPS": 4,
        "EVAL_EVERY_STEPS": 2,
        "SAVE_EVERY_STEPS": 4,
        "HELD_OUT_FRACTION": 0.2,
        "EVAL_SEQUENCES": None,
        "SIMULATED_DEVICES": 2,
        "DATA": 2,
        "MODEL_PARALLEL": 1,
        "Training.rates_every_steps": 2,
    }

    def train(name="run", gin_file=folder / "mixture.gin", **changes):
        start = ["train", f"--gin_file={gin_file}", f"--workdir={folder / name}"]
        return [*start, *tiny_run.bindings(values | changes)]

    prompted = [{"text": text, "prompt": "write f\n"} for text in texts]
    (folder / "tune.jsonl").write_text("".join(json.dumps(line) + "\n" for line in prompted))
    tuning = {
        "gin_file": "configs/runs/quickstart.gin",
        "TRAIN_STEPS": 2,
        "SOURCE": "@Jsonl()",
        "Jsonl.files": f"{folder}/tune.jsonl",
        "Jsonl.prompt_key": "prompt",
        "PACKING": "segments",
        "SEQUENCE_LENGTH": 256,
    }
    commands = {
        "begin": train(),
        "eval": ["eval", f"--workdir={folder}/run"],
        "heavier": train(TRAIN_STEPS=6, **{"parquet/Component.weight": 2}),
        "unlike": train(**{"lone/Component.corpus": None, "lone/Component.cache": folder}),
        "tune": train("tune", **tuning),
    }
    said = dict(zip(commands, tiny_run.run_each(commands.values(), "pass"), strict=True))
    return folder, said


def test_a_mixture_trains_and_tells_epochs_and_held_out_metrics_of_each_component(mixed):
    folder, said = mixed
    assert said["begin"].returncode == 0, said["begin"].stderr
    assert "no rows of lone are held out" in said["begin"].stderr
    last = tiny_run.metrics(folder / "run")[3]
    consumed = {}
    for name, kind in {"pile": "pile", "parquet": "parquet", "lone": "textfiles"}.items():
        (path,) = folder.glob(f"caches/{kind}-*/manifest.json")
        rows = json.loads(path.read_text())["splits"]["train"]["rows"]
        consumed[name] = last[f"epochs/{name}"] * rows
    assert sum(consumed.values()) == pytest.approx(4 * 8)
    assert consumed["pile"] > 16 > consumed["lone"] > 0
    for metric in ("eval_loss", "eval_bits_per_byte", "eval_accuracy"):
        pile, parquet = last[f"{metric}/pile"], last[f"{metric}/parquet"]
        assert pile != parquet and f"{metric}/lone" not in last
        assert last[metric] == pytest.approx((3 * pile + parquet) / 4)


def test_eval_of_a_mixture_needs_the_workdir_alone(mixed):
    folder, said = mixed
    assert said["eval"].returncode == 0, said["eval"].stderr
    told = {k: float(v) for k, v in map(str.split, said["eval"].stdout.splitlines()[1:])}
    saved = json.loads((folder / "run/checkpoints/4/MANIFEST.json").read_text())["metrics"]
    losses = {name: value for name, value in saved.items() if name.startswith("eval_loss")}
    perplexities = {n.replace("loss", "perplexity"): math.exp(x) for n, x in losses.items()}
    assert told == pytest.approx(saved | perplexities, rel=1e-5, abs=1e-4)
    assert "eval_loss/pile" in told


def test_a_mixture_of_other_weights_is_another_run(mixed):
    assert mixed[1]["heavier"].returncode == 2
    assert "data.weight.parquet: [[0, 1]] -> [[0, 2]]" in mixed[1]["heavier"].stderr


def test_a_components_cache_is_one(mixed):
    assert mixed[1]["unlike"].returncode == 2
    assert "manifest.json" in mixed[1]["unlike"].stderr


def test_fine_tuning_is_measured_per_token_with_weight_and_in_bits_per_byte_of_completions(mixed):
    folder, said = mixed
    assert said["tune"].returncode == 0, said["tune"].stderr
    last = tiny_run.metrics(folder / "tune")[-1]
    assert {"eval_loss", "eval_accuracy", "eval_bits_per_byte"} <= last.keys()
    assert 0 < last["tokens"] < 8 * 256
