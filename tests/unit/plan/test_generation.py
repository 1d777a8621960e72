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
        "prompt",
        "one",
    ]
    assert any("tokens a second, all samples" in line for line in lines)
    assert sum("not measured on a TPU" in line for line in lines) == 2


def test_what_does_not_fit_is_exit_code_3(capsys):
    assert generation("--topology=v5e-4", "--prompt_tokens=1024", "--num_samples=200000") == 3
    assert "DOES NOT FIT" in capsys.readouterr().out
