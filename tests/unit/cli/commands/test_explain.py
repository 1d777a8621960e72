import re

import pytest

from palmscale import axes
from palmscale.cli import main
from palmscale.cli.commands.explain import axis_sizes
from palmscale.cli.config import load
from palmscale.errors import UserError
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    load.reset()


def explained(capsys, recipe, *bindings, code=0):
    """What `palmscale explain` prints: [table lines, facts by name], or its error."""
    line = ["explain", f"--gin_file=configs/{recipe}.gin", *(f"--gin.{b}" for b in bindings)]
    assert main.run(line) == code
    captured = capsys.readouterr()
    if code:
        return captured.err
    table, _, facts = captured.out.partition("\n\n")
    return table.splitlines(), facts


def test_540b_on_3072_chips_is_explained_without_them(capsys):
    table, facts = explained(capsys, "recipes/palm_540b_v4_3072")
    gate = next(line for line in table if line.startswith("layers/gate")).split("  ")
    assert [cell.strip() for cell in gate if cell.strip()] == [
        "layers/gate",
        "118 18432 73728",
        "layers embed mlp",
        "- data model",
        "199.12 MiB",  # 118 x 18,432 x 73,728 x 4 bytes / 3,072
    ]
    assert facts.splitlines() == [
        "mesh            3,072 device(s): replica=1 x data=256 x model=12",
        "rules           2d, with vocab -> data, vocab_embed -> model",
        "parameters      540,394,205,184 stored",
        "                540,392,030,208 without norm scales",
        "                540,354,281,472 without norm scales and padding past 256,000 tokens",
        "a device        2.03 GiB: parameters 694.55 MiB, Adafactor state 1.36 GiB",
        "in all          5.90 TiB: parameters 1.97 TiB, Adafactor state 3.93 TiB",
        "replicated 12x  49.78 MiB a device, optimizer state included: layers/key, layers/value",
        "replicated      24.89 MiB a device, optimizer state included: layers/norm",
    ]
    assert max(map(len, table)) <= 120


def test_replicas_hold_all_of_the_state(capsys):
    _, facts = explained(capsys, "recipes/palm_540b_v4_6144")
    assert "6,144 device(s): replica=2" in facts and "2, each with all of the state" in facts
    assert "replicated 24x" in facts and "694.55 MiB" in facts


def test_one_device_replicates_nothing(capsys):
    _, facts = explained(capsys, "recipes/cpu_1m")
    assert "replica " not in facts and "replicated" not in facts


def test_what_a_rule_override_replicates_is_seen(capsys):
    _, facts = explained(capsys, "runs/quickstart", "RULE_OVERRIDES={'mlp': None, 'embed': None}")
    replicated = next(line for line in facts.splitlines() if re.match("replicated {2}", line))
    assert "layers/gate" in replicated and "layers/query" not in replicated
    assert "with mlp -> -, embed -> -" in facts


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("PaLM.heads=3", "layers/attention_out has 3 along 'heads'"),
        ("PADDED_TOKENS=259", "embedding has 259 along 'vocab'.* 2 devices"),
        ("RULE_OVERRIDES={'mlp': 'data'}", "one mesh axis would shard two dims"),
        ("RULES='3d'", "unknown layout table '3d'"),
        ("BATCH_SCHEDULE=((0, 6),)", "a batch of 6 sequences"),
        ("DATA=3", "needs 6 devices and there are 8"),
    ],
)
def test_what_training_refuses_is_refused(capsys, binding, message):
    error = explained(capsys, "runs/quickstart", binding, code=2)
    assert re.search(message, error)


def test_a_stated_mesh_needs_no_devices():
    layout = Layout(mesh=MeshSpec(data=256, model=12, replicas=2))
    assert axis_sizes(layout) == {axes.REPLICA: 2, axes.DATA: 256, axes.MODEL: 12}


def test_an_open_mesh_is_worked_out_from_simulated_or_own_devices():
    simulated = Layout(mesh=MeshSpec(data=-1, model=2), simulated_devices=8)
    assert axis_sizes(simulated)[axes.DATA] == 4
    assert axis_sizes(Layout(mesh=MeshSpec()))[axes.DATA] == 1
    with pytest.raises(UserError, match="multiple of 3"):
        axis_sizes(Layout(mesh=MeshSpec(data=-1, model=3), simulated_devices=8))


def test_settings_are_shown_a_line_each_without_the_layout(capsys):
    line = ["explain", "--settings", "--gin_file=configs/recipes/palm_62b_v5p_512.gin"]
    assert main.run([*line, "--gin.TRAIN_STEPS=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (steps,) = [line.split(maxsplit=3) for line in lines if line.startswith("TRAIN_STEPS")]
    assert steps[1:3] == ["5", "--gin.TRAIN_STEPS=5"] and steps[3].startswith("Training.steps: ")
    (width,) = [line.split(maxsplit=3) for line in lines if line.startswith("PaLM.dim ")]
    assert width[1] == "8192" and width[2].startswith("configs/models/palm_62b.gin:")
    assert "layers/gate" not in "".join(lines) and len(lines) > 80


def test_the_layouts_of_generation_are_explained_without_devices(capsys):
    line = ["explain", "--generate", "--gin_file=configs/recipes/palm_540b_v4_3072.gin"]
    assert main.run([*line, "--topology=v4:4x4x4", "--num_samples=64", "--prompts=512"]) == 0
    printed = capsys.readouterr().out
    assert "data=4 x model=16" in printed
    assert re.search(r"prefill +weights_gathered: a layer's sums move 57.00 GiB", printed)
    assert re.search(r"decode +weights_2d: .*; the cache of 64 sequence\(s\) is split", printed)
