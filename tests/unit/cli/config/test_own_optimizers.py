"""A gin file takes any optimizer and schedule; what a run could not record is refused."""

import pytest
from toy_config import write

from palmscale.cli.config import load
from palmscale.errors import UserError
from palmscale.run.identity import describe

QUICKSTART = "include 'configs/runs/quickstart.gin'\n"
ADAMW = QUICKSTART + "include 'configs/optim/adamw.gin'\nimport own_optim\n"
MODULE = """
import dataclasses
import optax

def peak_and_fall(peak=1e-3):
    return optax.join_schedules(
        [optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, 10)], [30]
    )

def rate(count, peak=1.0):
    return peak * count

def chained(learning_rate):
    return optax.chain(optax.clip(1.0), optax.lion(learning_rate))

@dataclasses.dataclass(frozen=True)
class Lion:
    learning_rate: object = None

    def build(self, logical_axes):
        return optax.lion(self.learning_rate)
"""
SCHEDULE = "learning_rate = @own_optim.peak_and_fall()\nown_optim.peak_and_fall.peak = 0.5\n"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_optim.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    "lines",
    [
        "OPTIMIZER = @own_optim.chained()\nown_optim.chained." + SCHEDULE,
        "OPTIMIZER = @own_optim.Lion()\nown_optim.Lion." + SCHEDULE,
        "OPTIMIZER = @optax.lion()\noptax.lion." + SCHEDULE,
        "include 'configs/optim/adamw.gin'\nAdamW." + SCHEDULE,
    ],
    ids=["function", "class", "optax", "schedule alone"],
)
def test_an_optimizer_or_schedule_is_what_any_function_makes(tmp_path, lines):
    text = f"import optax\nimport own_optim\n{QUICKSTART}{lines}"
    if "optax.lion" not in lines:
        text = text.replace("import optax\n", "")
    optimizer = describe(load.load_run(write(tmp_path, text)).optimizer)
    assert "0.5" in str(optimizer)
    # And so it does from the config.gin that a run keeps.
    write(tmp_path, load.operative_config(), "config.gin")
    assert describe(load.load_run("config.gin").optimizer) == optimizer


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "OPTIMIZER = @PaLM()",
            "Run.optimizer needs Optimizer or GradientTransformation; change OPTIMIZER",
        ),
        ("OPTIMIZER = @own_optim.chained", r"write OPTIMIZER = @own_optim.chained\(\)\."),
        ("OPTIMIZER = @own_optim.Lion", r"write OPTIMIZER = @own_optim.Lion\(\)\."),
        ("AdamW.learning_rate = 1e-3", "AdamW.learning_rate = 0.001 .* expected Schedule"),
        (
            "AdamW.learning_rate = @own_optim.rate\nown_optim.rate.peak = 2.0",
            "@own_optim.rate is called later, with count; a checkpoint would not record peak",
        ),
    ],
)
def test_what_makes_none_is_refused_where_it_stands(tmp_path, line, said):
    with pytest.raises(UserError, match=said):
        load.load_run(write(tmp_path, f"{ADAMW}{line}\n"))
