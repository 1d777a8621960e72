"""A module `toy.palm` to configure, and gin files of it, for the tests of the configuration."""

import dataclasses
import textwrap
from typing import Any

import flax.linen as nn

from palmscale.cli.config import load
from palmscale.errors import CorruptionError


class PaLM(nn.Module):
    dim: int
    depth: int = 2
    norm: str | None = None
    sizes: tuple[int, ...] = ()
    dtype: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    data: int = -1
    model: int = 1


def train(
    model: nn.Module,
    *,
    steps: int,
    rate: float = 0.1,
    mesh: MeshSpec | None = None,
    files: Any = (),
):
    return model, steps, rate, mesh, files


def hold(held: Any):
    return held


def refuse(heads: int = 3):
    raise CorruptionError(f"heads = {heads} is odd")


HEAD = """\
from toy import palm
"""
RUN = (
    HEAD
    + """\
STEPS = 5
DIM = 8
palm.PaLM.dim = %DIM
palm.train.model = @palm.PaLM()
palm.train.steps = %STEPS
"""
)
SCOPED = (
    RUN
    + """\
palm.train.files = (@small/palm.PaLM(), @large/palm.PaLM())
palm.PaLM.norm = 'rms'
large/palm.PaLM.dim = 64
small/palm.PaLM.depth = 1
"""
)


def write(tmp_path, text, name="run.gin"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return name


def load_text(tmp_path, text, *bindings):
    load.load([write(tmp_path, text)], bindings)
