"""A user's own Flax module, beside a user's own gin file, in a user's own folder."""

import pathlib
import random
import shutil
import subprocess
import sys

import pytest
import tiny_run
from served_command import served

GIN = """\
# A user's run of a user's module. `hidden` and `unembed` are all that palmscale calls.
from __gin__ import dynamic_registration

import gpt_module

include 'configs/runs/pretrain.gin'
include 'configs/optim/adamw.gin'
include 'configs/meshes/simulated_4x2.gin'

MODEL = @gpt_module.GPT()
NUM_TOKENS = 260
gpt_module.GPT.num_tokens = %NUM_TOKENS
gpt_module.GPT.dim = 32
gpt_module.GPT.depth = 2
gpt_module.GPT.heads = 4
gpt_module.GPT.max_length = %SEQUENCE_LENGTH
RULE_OVERRIDES = {
    'gpt_stream': None, 'gpt_norm': None, 'gpt_head_size': None,
    'gpt_width': 'data', 'gpt_heads': 'model', 'gpt_inner': 'model', 'gpt_vocab': 'model',
}
PEAK_LEARNING_RATE = 1e-2
WARMUP_STEPS = 2
SEQUENCE_LENGTH = 32
LOSS_CHUNK_LENGTH = 32
BATCH_SCHEDULE = ((0, 8),)
TRAIN_STEPS = 10
EVAL_EVERY_STEPS = 5
SAVE_EVERY_STEPS = 2
EVAL_SEQUENCES = 16
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's: their module and their gin file."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(pathlib.Path(__file__).with_name("gpt_module.py"), folder)
    (folder / "gpt.gin").write_text(GIN)
    return folder


@pytest.fixture(scope="module")
def at_home(folder):
    """Starts processes in the user's folder."""
    return {"cwd": folder}


def test_trains_by_gin_alone_and_after_a_kill_ends_bit_for_bit_equal(
    folder, at_home, finished, row_cache
):
    def command(workdir):
        return ["train", "--gin_file=gpt.gin", f"--workdir={workdir}", f"--gin.CACHE={row_cache}"]

    said = tiny_run.run(*command("whole"), **at_home).stderr
    assert "Next: palmscale generate --workdir=whole --prompt= --module=gpt_module" in said
    after_a_step = tiny_run.MOMENTS[2]
    assert tiny_run.kill_once(
        command("killed"), folder / "killed", after_a_step, random.Random(0), **at_home
    )
    tiny_run.run(*command("killed"), **at_home)
    tiny_run.assert_same_end(folder / "killed", folder / "whole")
    losses = [line["loss"] for line in tiny_run.metrics(folder / "whole")]
    assert losses[-1] < losses[0] - 0.3


def test_its_parameters_are_sharded_by_the_rules_that_the_gin_file_adds(
    folder, at_home, finished, row_cache
):
    explained = tiny_run.run(
        "explain", "--gin_file=gpt.gin", f"--gin.CACHE={row_cache}", **at_home
    ).stdout
    (qkv,) = [line for line in explained.splitlines() if "block_0" in line and "qkv" in line]
    assert "gpt_heads" in qkv and "data" in qkv and "model" in qkv


def test_without_a_rule_for_one_of_its_names_it_is_refused(folder, at_home, finished, row_cache):
    (folder / "lacking.gin").write_text(GIN.replace("'gpt_inner': 'model', ", ""))
    refused = tiny_run.run(
        "train", "--gin_file=lacking.gin", "--workdir=lacking", f"--gin.CACHE={row_cache}",
        code=2, **at_home,
    )  # fmt: skip
    assert "gpt_inner" in refused.stderr.splitlines()[-1]
    assert not list((folder / "lacking").rglob("MANIFEST.json"))


GENERATE = """
import gpt_module, palmscale
from palmscale import Layout, MeshSpec
layouts = [None, Layout(mesh=MeshSpec(data=2, model=2)), Layout(mesh=MeshSpec(data=1, model=4))]
for layout in layouts:
    trained = palmscale.load("whole", layout=layout)
    where = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(trained.params)}
    print(*where, repr(trained.generate("def ", max_tokens=12, temperature=0)))
"""


def test_it_generates_the_same_text_on_one_device_and_on_four(folder, at_home, finished, row_cache):
    code = f"import jax; jax.config.update('jax_num_cpu_devices', 4)\n{GENERATE}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, **at_home
    )
    assert done.returncode == 0, done.stderr
    texts = [line.partition(" ")[::2] for line in done.stdout.splitlines()]
    assert [devices for devices, _ in texts] == ["1", "4", "4"]
    assert len({text for _, text in texts}) == 1
    flags = ["--workdir=whole", "--prompt=def ", "--max_tokens=12", "--greedy"]
    refused = tiny_run.run("generate", *flags, code=2, **at_home).stderr
    assert "if you trust gpt_module" in refused and "--module" in refused
    flags.append("--module=gpt_module")
    written = tiny_run.run("generate", *flags, **at_home).stdout
    assert repr(written.removeprefix("def ").removesuffix("\n")) == texts[0][1]


def test_it_is_served_where_it_is_named(folder, at_home, finished, row_cache):
    flags = ["--workdir=whole", "--context_length=32", "--port=0"]
    with served(*flags, "--module=gpt_module", **at_home) as command:
        client = command.client()
        wanted = {"prompt": ["x", "def "], "max_tokens": 12, "temperature": 0}
        answer = client.completions.create(model="whole", **wanted)
        assert command.end()[0] == 0
    flags = ["--workdir=whole", "--prompt=def ", "--max_tokens=12", "--greedy"]
    written = tiny_run.run("generate", *flags, "--module=gpt_module", **at_home).stdout
    assert written == f"def {answer.choices[1].text}\n"
