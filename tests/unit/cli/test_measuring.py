import pytest

from palmscale.cli import gin_config, measuring
from palmscale.cli.run import load_run
from palmscale.errors import UserError

TINY = ("palm.PaLM.dim=16", "palm.PaLM.depth=1", "palm.PaLM.heads=1", "palm.PaLM.dim_head=16",
        "BATCH_SCHEDULE=((0, 4),)", "SEQUENCE_LENGTH=32", "SIMULATED_DEVICES=None")  # fmt: skip


@pytest.fixture
def run():
    yield load_run(["configs/recipes/cpu_1m.gin"], TINY)
    gin_config.reset()


def test_a_few_steps_are_timed_and_called_measured(run, capsys):
    measuring.print_facts_of(run, 4)
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert facts["measured"].strip() == "on 1 x cpu, not predicted"
    assert "a second and device" in facts["tokens"]
    assert float(facts["step time"].split()[0]) > 0
    assert "MFU (paper's)" not in facts  # nobody states a peak for this CPU


def test_without_a_gpu_it_says_what_cannot_be_known(run):
    with pytest.raises(UserError, match="whether activations fit a GPU and how fast a step is"):
        measuring.measure(run)


def test_a_batch_must_divide(run):
    with pytest.raises(UserError, match="BATCH_SCHEDULE has 4 sequences"):
        measuring.print_facts_of(load_run(["configs/recipes/cpu_1m.gin"],
                                          (*TINY, "MICROBATCHES=8")), 4)  # fmt: skip
