import json

import jax
import pytest
import source_tree
from eight_devices import facts_on_eight_devices

from palmscale.cli import main
from palmscale.cli.config import load
from palmscale.cli.config.load import load_run
from palmscale.data.feed import abstract_batch
from palmscale.data.open import training_stream
from palmscale.errors import UserError
from palmscale.plan import run_plan
from palmscale.plan.hardware.topology import parse
from palmscale.plan.run_step import lowered_step
from palmscale.run.session import compiled_step, open_session
from palmscale.train.compile import digest
from palmscale.trees import named_leaves

TINY = (
    "PaLM.dim=128",
    "PaLM.depth=2",
    "PaLM.heads=2",
    "PaLM.dim_head=128",
    "PaLM.query_chunk=256",
    "NUM_TOKENS=512",
    "PADDED_TOKENS=512",
    "DATA=2",
    "MODEL_PARALLEL=2",
    "BATCH_SCHEDULE=((0, 8), (10, 16))",
    "SIMULATED_DEVICES=None",
)
GIN = "--gin_file=configs/recipes/cpu_1m.gin"


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    load.reset()


def plan(*arguments):
    return main.run(["plan", GIN, *(f"--gin.{b}" for b in TINY), *arguments])


def test_a_plan_is_printed_and_written(tmp_path, capsys):
    assert plan("--topology=v5e-4", "--batch=all", f"--workdir={tmp_path}") == 0
    out = capsys.readouterr().out
    assert "fits:" in out and "of 15.75 a device at peak" in out and "MFU (paper's)" in out
    whole = json.loads((tmp_path / "plan.json").read_text())
    assert [one["batch_sequences"] for one in whole["plans"]] == [8, 16]
    digests = [one["step_digest"] for one in whole["plans"]]
    assert len(set(digests)) == 2
    assert "<!doctype html>" in (tmp_path / "plan.html").read_text()


def test_the_step_is_that_of_train_and_the_same_each_time():
    run = load_run(["configs/recipes/cpu_1m.gin"], TINY)
    first, second = (lowered_step(run, parse("v5e-4"), 8) for _ in range(2))
    assert first.digest == second.digest
    assert first.tokens == 8 * 256


def planned_and_run(folder, *changes):
    """The digests of a fine-tune's step as it is planned, and as a run on TPUs would lower it."""
    base = source_tree.CHECKOUT / "tests/golden/workdirs/0.1.0/palm"
    given = [f"BASE={base}", f"JSONL_FILES={folder}/a.jsonl", f"CACHE_DIRECTORY={folder}"]
    mesh = ["DATA=4", "MODEL_PARALLEL=2"]
    run = load_run(["configs/runs/finetune.gin"], [*given, *mesh, "TRAIN_STEPS=2", *changes])
    planned = lowered_step(run, parse("v5e-8"), 32).digest
    with open_session(run) as session:
        stream = training_stream(run.data, session.caches, run.training.batch_schedule)
        batch = abstract_batch(stream, session.layout.batch_sharding, 0)
        traced = compiled_step(run, session).trace(batch)
    # Randomness is lowered to other loops for CPUs.
    return [planned, digest(traced.lower(lowering_platforms=("tpu",)))]


def test_the_step_of_a_fine_tune_is_that_of_its_run(tmp_path):
    """With dropout and packed rows."""
    lines = [json.dumps({"prompt": f"{n}+1=", "completion": str(n + 1)}) for n in range(99)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    planned, run = facts_on_eight_devices(planned_and_run, str(tmp_path))
    assert planned == run


def test_the_python_call_plans_the_same_step_as_the_command(tmp_path):
    run = load_run(["configs/recipes/cpu_1m.gin"], TINY)
    plans = run_plan.plan(run, "v5e-4", batch="all", dollars_per_chip_hour=2.0)
    assert plan("--topology=v5e-4", "--batch=all", f"--workdir={tmp_path}") == 0
    whole = json.loads((tmp_path / "plan.json").read_text())
    digests = [one["step_digest"] for one in whole["plans"]]
    assert digests == [one.verdict.step_digest for one in plans.plans]
    assert plans.fits and plans.verdict.batch_sequences == 16
    lower = plans.verdict.prediction.lower_bound
    cost = plans.plans[-1].cost(lower)
    assert cost.dollars == 2.0 * cost.chip_hours > 0


def test_a_verdict_is_cached_and_a_price_does_not_matter(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = load_run(["configs/recipes/cpu_1m.gin"], TINY)
    first = run_plan.plan(run, "v5e-4", batch=8)
    monkeypatch.setattr(run_plan, "judge", None)  # it is not called again
    second = run_plan.plan(run, "v5e-4", batch=8, dollars_per_chip_hour=2.0)
    assert second.verdict == first.verdict


def test_a_run_without_a_topology_names_the_field():
    run = load_run(["configs/recipes/cpu_1m.gin"], TINY)
    with pytest.raises(UserError, match="Layout.topology is None; set it, or pass topology"):
        run_plan.plan(run)
    with pytest.raises(UserError, match="batch='few' is not `largest`, `all` or a number"):
        run_plan.plan(run, "v5e-4", batch="few")


def test_planning_leaves_the_compilation_cache_as_it_was():
    before = jax.config.jax_enable_compilation_cache
    run_plan.plan(load_run(["configs/recipes/cpu_1m.gin"], TINY), "v5e-4", batch=8)
    assert jax.config.jax_enable_compilation_cache == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--topology=v5x-4",), "unknown topology 'v5x-4'"),
        (("--topology=v5e-8",), "needs 4 devices and there are 8"),
        (("--topology=v5e-4", "--batch=few"), "'few' is wrong; give largest, all"),
        (("--topology=v5e-4", "--batch=7"), "does not divide over 2"),
        (
            ("--topology=v5e-4", "--gin.PaLM.heads=3"),
            "has 3 along 'heads', which does not divide",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys):
    assert plan(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1], said


def test_the_plan_of_adapters_has_their_optimizer_state_and_no_gradients_of_their_base():
    changes = ("TRAINABLE=@Lora()", "Lora.rank=4", "Lora.alpha=8.0")
    base = ("WARM_START=@WarmStart()", "WarmStart.workdir='none'")
    whole, adapters = (
        lowered_step(load_run(["configs/recipes/cpu_1m.gin"], bindings), parse("v5e-4"), 8)
        for bindings in (TINY, (*TINY, *changes, *base))
    )
    assert adapters.digest != whole.digest
    state = named_leaves(adapters.optimizer_state)
    paths = {path for path, leaf in state.items() if leaf.ndim}
    assert all("query/" in path or "value/" in path for path in paths)
    # Without those of its base, a matmul of a step counts two thirds; attention counts as before.
    assert 0.6 < adapters.weight_flops_per_token / whole.weight_flops_per_token < 0.7
    assert adapters.attention_flops_per_token == whole.attention_flops_per_token
    assert 0.6 < adapters.matmul_flops / whole.matmul_flops < 0.9
