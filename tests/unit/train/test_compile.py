"""The step as the devices run it: one program for each shape of a batch, known by its digest."""

import jax
import numpy as np
import pytest
from tiny_training import BOS, LENGTH, MODEL, Z_LOSS, targets, training

from palmscale.train.compile import CompiledStep
from palmscale.train.state import init_state
from palmscale.train.step import make_train_step


@pytest.fixture(scope="module")
def here():
    with training(1, 1) as made:
        yield made


def compiled(here, **changes):
    fields = dict(bos_id=BOS, seed=0, z_loss=Z_LOSS, loss_chunk_length=LENGTH) | changes
    return CompiledStep(make_train_step(model=MODEL, plan=here.plan, **fields), here.plan)


def abstract(batch):
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), batch
    )


@pytest.fixture(scope="module")
def step(here):
    made = compiled(here)
    made.digest = made.prepare(abstract(here.batch(targets(4))))
    return made


def test_it_does_what_the_jitted_step_does(here, step):
    batch = here.batch(targets(4))
    states = [init_state(here.plan, MODEL, seed=0) for _ in range(2)]
    (ours, metrics), (theirs, expected) = step(states[0], batch), here.step(states[1], batch)
    assert float(metrics["loss"]) == float(expected["loss"])
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_another_shape_compiles_on_its_first_use(here, step):
    state, _ = step(init_state(here.plan, MODEL, seed=0), here.batch(targets(4)))
    _, metrics = step(state, here.batch(targets(2)))
    assert float(metrics["tokens"]) == 2 * LENGTH


def test_equal_programs_have_equal_digests_and_others_do_not(here, step):
    batch = abstract(here.batch(targets(4)))
    assert compiled(here).prepare(batch) == step.digest
    assert compiled(here, z_loss=0.5).prepare(batch) != step.digest
    assert compiled(here).prepare(abstract(here.batch(targets(2)))) != step.digest


def test_options_for_tpus_have_no_effect_elsewhere(here, step):
    made = CompiledStep(
        make_train_step(
            model=MODEL, plan=here.plan, bos_id=BOS, seed=0, z_loss=Z_LOSS, loss_chunk_length=LENGTH
        ),
        here.plan,
        {"xla_enable_async_all_gather": True},
    )
    assert made.prepare(abstract(here.batch(targets(4)))) == step.digest
