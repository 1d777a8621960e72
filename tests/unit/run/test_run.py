import dataclasses
import subprocess
import sys

import pytest
from flax import linen as nn
from small_run import RUN

from palmscale.checkpoint.warm_start import WarmStart
from palmscale.errors import UserError
from palmscale.model.lora import Lora
from palmscale.run.run import Run


def test_a_module_that_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="Dense has no `hidden`; .*unembed"):
        dataclasses.replace(RUN, model=nn.Dense(4))


def test_adapters_need_a_base_as_it_is_stored():
    lora, warm = Lora(rank=1, alpha=1.0), WarmStart(workdir="runs/base")
    dataclasses.replace(RUN, trainable=lora, warm_start=warm)
    with pytest.raises(UserError, match="Run.warm_start=None names none; set WarmStart.workdir"):
        dataclasses.replace(RUN, trainable=lora)
    with pytest.raises(UserError, match="leave out WarmStart.rename, fresh and unused"):
        fresh = dataclasses.replace(warm, fresh=("embedding",))
        dataclasses.replace(RUN, trainable=lora, warm_start=fresh)


def test_a_run_has_few_fields_and_most_have_a_default():
    fields = dataclasses.fields(Run)
    assert len(fields) <= 12
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    assert required == ["model", "optimizer", "data", "training"]


def test_a_run_is_described_without_gin_or_the_command_line():
    code = "import sys, palmscale.run.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not [name for name in loaded if name == "gin" or name.startswith("palmscale.cli")]
