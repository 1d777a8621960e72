"""What `check-module` says of modules: one that trains, and ones that lack something."""

import re

import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.partition.rules import layout_rules
from palmscale.run.module_report import BYTE_TOKENS, find_module, report

RULES = layout_rules("2d")
named = nn.with_logical_partitioning
ones = nn.initializers.ones


class Mixer(nn.Module):
    """Trains: dense layers of Flax, with axes of its own."""

    num_tokens: int
    dim: int = 8
    output_axes: tuple[str | None, ...] | None = ("mix", "embed")

    def setup(self):
        self.table = self.param("table", named(ones, ("vocab", None)), (self.num_tokens, self.dim))
        out = ones if self.output_axes is None else named(ones, self.output_axes)
        self.inner = nn.DenseGeneral(
            (2, 4), kernel_init=named(ones, ("embed", "mix", "kv")), use_bias=False
        )
        self.outer = nn.Dense(self.dim, kernel_init=out, use_bias=False)

    def __call__(self, tokens_BL):
        return self.unembed(self.hidden(tokens_BL))

    def hidden(self, tokens_BL):
        x_BLD = self.table[tokens_BL]
        self.sow("losses", "balance", x_BLD.mean())
        return self.outer(self.inner(x_BLD).reshape(*tokens_BL.shape, -1))

    def unembed(self, x_BLD):
        return x_BLD @ self.table.T


class Least(nn.Module):
    @nn.compact
    def __call__(self, tokens_BL):
        return nn.Embed(4, 4)(tokens_BL)


def facts_of(model):
    found = report(model, sequence_length=32, rules=RULES)
    assert found.problems == []
    return dict(found.facts), found.parameters


def test_a_module_that_trains_is_told_what_it_supports():
    facts, parameters = facts_of(Mixer(num_tokens=12))
    assert facts["hidden"] == "float32 [1, 32, 8]" and facts["unembed"] == "float32 [1, 32, 12]"
    assert facts["parameters"] == "224 in 3 arrays, float32"
    assert facts["axes without a rule"].startswith("mix:")
    assert facts["sown"].startswith("losses: not part of the loss")
    assert facts["packed rows"].startswith("no: hidden takes no segment_BL")
    assert facts["generation"].startswith("no: ") and "extend" in facts["generation"]
    assert facts["MFU"].startswith("without attention")
    assert ("inner/kernel", "8 2 4", "float32", "embed mix kv") in parameters
    assert ("table", "12 8", "float32", "vocab -") in parameters


def test_palm_supports_everything():
    facts, _ = facts_of(PaLM(num_tokens=12, dim=8, depth=2, heads=2, dim_head=4))
    assert facts["packed rows"] == "yes" and facts["MFU"] == "counts attention"
    assert facts["generation"] == "yes, with a cache of 2 layers x 4"
    assert "axes without a rule" not in facts and "sown" not in facts


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (None, "parameter outer/kernel has no logical axes"),
        (("mlp",), r"parameter outer/kernel has the shape \(8, 8\) and the logical axes \('mlp'"),
        (("embed", "embed"), "parameter outer/kernel: .*one mesh axis would shard two dims"),
    ],
)
def test_a_parameter_that_cannot_be_placed_is_named(axes, said):
    (problem,) = report(
        Mixer(num_tokens=12, output_axes=axes), sequence_length=8, rules=RULES
    ).problems
    assert re.search(said, problem), problem


def test_a_module_without_the_methods_has_one_problem():
    found = report(Least(), sequence_length=8, rules=RULES)
    assert found.parameters == [] and "Least has no `hidden`" in found.problems[0]


def test_a_module_is_found_by_name_and_gets_its_fields():
    here = __name__
    assert find_module(f"{here}:Mixer", {}) == Mixer(num_tokens=BYTE_TOKENS)
    assert find_module(f"{here}:Mixer", {"num_tokens": 5, "dim": 3}).dim == 3


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("Mixer", {}, "Mixer names no module; expected MODULE:CLASS"),
        ("no_such_module:A", {}, "cannot import no_such_module: ModuleNotFoundError"),
        (f"{__name__}:Mixers", {}, "has no Mixers"),
        ("pathlib:Path", {}, "pathlib:Path is no flax.linen.Module"),
        (f"{__name__}:Mixer", {"dims": 3}, "Mixer has no field dims; it has num_tokens, dim"),
        ("palmscale.model.palm:PaLM", {"dim": 8}, "PaLM needs depth; add depth=VALUE"),
        (
            "palmscale.model.palm:PaLM",
            {"dim": 8, "depth": 1, "dim_head": 3},
            "PaLM.dim_head=3 must be even",
        ),
    ],
)
def test_what_cannot_be_made_is_the_users_mistake(name, fields, said):
    with pytest.raises(UserError, match=said):
        find_module(name, fields)
