import pytest

from palmscale.cli import main
from palmscale.cli.config import load

TINY = ("PaLM.dim=128", "PaLM.depth=2", "PaLM.heads=2", "PaLM.dim_head=64",
        "NUM_TOKENS=512", "PADDED_TOKENS=512", "DATA=2", "MODEL_PARALLEL=2",
        "SIMULATED_DEVICES=None")  # fmt: skip


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    load.reset()


def generation(*arguments):
    line = ["plan", "--generate", "--gin_file=configs/recipes/cpu_1m.gin"]
    return main.run([*line, *(f"--gin.{binding}" for binding in TINY), *arguments])


def test_prompt_and_one_token_are_planned(capsys):
    assert generation("--topology=v5e-4", "--prompt_tokens=128", "--num_samples=4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line and not line.startswith(" ")] == [
        "topology",
        "mesh",
        "prompt",
        "one",
    ]
    assert any("tokens a second, all samples" in line for line in lines)
    assert sum("not measured on a TPU" in line for line in lines) == 2


def test_a_phase_states_its_layout_and_what_a_device_holds(capsys):
    # 2 layers x keys and values x 1,024 positions x 64 x 4 bytes: each device has one sequence.
    line = ("--topology=v5e-4", "--prompt_tokens=128", "--num_samples=4", "--context_tokens=1024")
    assert generation(*line) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    caches = [text for name, text in lines if name == "cache"]
    assert caches == ["1.00 MiB a device, 1 prompts", "1.00 MiB a device, 4 samples"]
    layouts = [text.partition(":")[0] for name, text in lines if name == "layout"]
    assert layouts == ["weights_2d", "weights_2d"]  # two heads do not divide over four devices


def test_what_does_not_fit_is_exit_code_3(capsys):
    assert generation("--topology=v5e-4", "--prompt_tokens=1024", "--num_samples=200000") == 3
    assert "DOES NOT FIT" in capsys.readouterr().out
