"""A user's own module, optimizer and schedule, from gin files in the user's own folder."""

import pathlib
import shutil

import pytest
import tiny_run

RUN = """\
import llama_module
import optimizers_module

include 'configs/runs/pretrain.gin'
include 'configs/optim/adamw.gin'
include 'configs/meshes/simulated_4x2.gin'

MODEL = @llama_module.Llama()
NUM_TOKENS = 260
llama_module.Llama.num_tokens = %NUM_TOKENS
RULE_OVERRIDES = {'kv_heads': 'model'}
SEQUENCE_LENGTH = 32
LOSS_CHUNK_LENGTH = 32
BATCH_SCHEDULE = ((0, 8),)
TRAIN_STEPS = 4
SAVE_EVERY_STEPS = 2
EVAL_SEQUENCES = 16

optimizers_module.warmup_stable_decay.peak = 1e-2
optimizers_module.warmup_stable_decay.warmup_steps = 1
optimizers_module.warmup_stable_decay.total_steps = 8
optimizers_module.warmup_stable_decay.decay_steps = 3
"""
# Grouped queries of nn.DenseGeneral; Lion in a chain, its rate by the schedule.
DENSE = """\
llama_module.Llama.kv_heads = 2
OPTIMIZER = @optimizers_module.lion()
optimizers_module.lion.learning_rate = @optimizers_module.warmup_stable_decay()
"""
# nn.MultiHeadDotProductAttention in layers of nn.scan; palmscale's AdamW with the schedule.
ATTENTION = """\
llama_module.Llama.scan = True
AdamW.learning_rate = @optimizers_module.warmup_stable_decay()
"""
RUNS = {"dense": DENSE, "attention": ATTENTION}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's: their modules and their gin files."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("llama_module.py", "optimizers_module.py"):
        shutil.copy(pathlib.Path(__file__).with_name(name), folder)
    for name, more in RUNS.items():
        (folder / f"{name}.gin").write_text(RUN + more)
    return folder


@pytest.fixture(scope="module")
def train(folder, row_cache):
    """Runs `palmscale train` several times in one process: (gin file, workdir, bindings)."""

    def train(*commands):
        flags = [
            ["train", f"--gin_file={name}.gin", f"--workdir={workdir}", f"--gin.CACHE={row_cache}",
             *more]
            for name, workdir, *more in commands
        ]  # fmt: skip
        return tiny_run.run_each(flags, cwd=folder)

    return train


@pytest.fixture(scope="module")
def trained(folder, train, finished):
    """The output of each run; `<name>_resumed` was trained from step 2 of `<name>`."""
    outputs = dict(zip(RUNS, train(*((name, name) for name in RUNS)), strict=True))
    for name, done in outputs.items():
        assert done.returncode == 0, done.stderr
        resumed = shutil.copytree(folder / name, folder / f"{name}_resumed")
        shutil.rmtree(resumed / "checkpoints/4")
    resumed = train(
        *((name, f"{name}_resumed") for name in RUNS),
        ("dense", "dense_resumed", "--gin.optimizers_module.lion.weight_decay=0.2"),
        ("attention", "attention_resumed", "--gin.optimizers_module.warmup_stable_decay.peak=0.02"),
    )
    names = [f"{name}_resumed" for name in RUNS]
    return outputs | dict(zip((*names, "other decay", "other peak"), resumed, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_and_resumes_bit_for_bit_equal_on_4_x_2(folder, trained, name):
    done = trained[f"{name}_resumed"]
    assert done.returncode == 0 and "Resuming after step 2" in done.stderr, done.stderr
    tiny_run.assert_same_end(folder / f"{name}_resumed", folder / name)
    losses = [line["loss"] for line in tiny_run.metrics(folder / name)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [("other decay", "weight_decay: 0.1 -> 0.2"), ("other peak", "0.01 -> 0.02")],
)
def test_another_setting_of_its_function_is_another_run(trained, changed, said):
    done = trained[changed]
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "the workdir holds another run (optimizer." in last
    assert said in last


def test_its_plan_knows_the_state_of_the_optimizer(folder, trained, row_cache):
    flags = ["--gin_file=dense.gin", f"--gin.CACHE={row_cache}"]
    (done,) = tiny_run.run_each([["explain", *flags]], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "optax state" in done.stdout and "kv_heads" in done.stdout
