import dataclasses

import pytest
import small_plan
from flax import linen as nn
from small_search import BASE, RUN

from palmscale.errors import UserError
from palmscale.partition.mesh import MeshSpec
from palmscale.plan.hardware.topology import parse
from palmscale.plan.search import layout_search
from palmscale.plan.search.layout_search import Candidate, base_choice, shape_of

WHERE = parse("v5e-4")
OTHER = dataclasses.replace(BASE, gradient_accumulation_steps=2)


class Plain(nn.Module):
    """Trains, and has none of PaLM's fields."""

    def hidden(self, tokens_BL):
        return tokens_BL

    def unembed(self, x_BLD):
        return x_BLD


def small(run, **mesh):
    return dataclasses.replace(run, layout=dataclasses.replace(run.layout, mesh=MeshSpec(**mesh)))


def candidate(verdict=None):
    result = "no" if verdict is None else small_plan.plan(verdict)
    return Candidate(choice=OTHER, changes={}, result=result)


def test_the_choice_that_a_run_makes_is_read_from_it():
    base = base_choice(small(RUN, data=-1, model=2), WHERE)
    assert (base.data, base.model, base.residual, base.vocabulary) == (2, 2, "embed", "model")
    assert base.remat == RUN.model.remat and base.gradient_accumulation_steps == 1


def test_the_arithmetic_knows_the_models_shape():
    shape = shape_of(RUN, WHERE, 16)
    assert (shape.width, shape.layers, shape.devices) == (RUN.model.dim, RUN.model.depth, 4)
    assert shape.offered_bytes == int(15.75 * 2**30)
    assert min(shape.ways(1, 2, 2)) > 0 and shape.stages == (512,)


def test_a_module_of_another_kind_is_refused():
    with pytest.raises(UserError, match="Plain has no dim, heads, dim_head, depth"):
        shape_of(dataclasses.replace(RUN, model=Plain()), WHERE, 16)


def test_a_model_of_the_program_itself_is_refused(monkeypatch):
    monkeypatch.setattr(type(RUN.model), "__module__", "__main__")
    with pytest.raises(UserError, match="PaLM is defined in the program itself"):
        list(layout_search.suggest(RUN, parse("v4:4x4x4"), 512, count=1))


def test_what_fits_and_is_fastest_ranks_first_and_a_failure_last():
    slow = small_plan.fits(prediction=small_plan.prediction(2.0, 2.0))
    fast = small_plan.fits(prediction=small_plan.prediction(1.0, 1.0))
    tried = [candidate(), candidate(slow), candidate(small_plan.does_not_fit()), candidate(fast)]
    ranks = sorted(one.rank for one in tried)
    assert ranks == [1.0, 2.0, float("inf"), float("inf")]
    assert candidate(small_plan.fits(prediction=None)).rank == 6500  # no clock: cycles
