"""Faults put in on purpose: at the row they belong to, and never in what is reported."""

import math

import jax
import numpy as np
import pytest
from tiny_training import BOS, LENGTH, MODEL, Z_LOSS, targets, training

from palmscale.data.stream import BatchSchedule, RowStream, Shuffled
from palmscale.errors import UserError
from palmscale.train.faults import Fault, faulty, parse_faults, spoil
from palmscale.train.state import init_state
from palmscale.train.step import make_train_step


class Split:
    num_rows, sequence_length = 1000, LENGTH


STREAM = RowStream(rows=Shuffled(Split(), seed=0), schedule=BatchSchedule(((0, 4), (10, 8))))
NORMAL, SPOILED = object(), object()


def test_a_list_of_faults_is_read():
    assert parse_faults("spike@120, nan@200") == (Fault("spike", 120), Fault("nan", 200))
    assert parse_faults("") == ()


@pytest.mark.parametrize("text", ["spike", "spike@", "nan@x", "nan@3;spike@4", "hang@3"])
def test_what_is_no_fault_is_refused_with_an_example(text):
    with pytest.raises(UserError, match="for example spike@120,nan@200"):
        parse_faults(text)


def step_at(faults, cursor):
    return faulty(NORMAL, SPOILED, parse_faults(faults), STREAM)(cursor)


def test_without_faults_every_step_is_the_normal_one():
    assert step_at("", STREAM.cursor(3)) is NORMAL


def test_a_fault_is_at_its_step_alone_also_where_the_batch_has_grown():
    wrong = [step for step in range(30) if step_at("nan@12", STREAM.cursor(step)) is SPOILED]
    assert wrong == [12]


def test_where_its_row_is_skipped_the_fault_is_gone_and_where_others_are_it_comes_later():
    first = STREAM.schedule.rows_before(12)
    cursors = [STREAM.cursor(step, ((first, first + 1),)) for step in range(30)]
    assert all(step_at("nan@12", cursor) is NORMAL for cursor in cursors)
    cursors = [STREAM.cursor(step, ((0, 8),)) for step in range(30)]
    assert [c.step for c in cursors if step_at("nan@12", c) is SPOILED] == [11]


@pytest.fixture(scope="module")
def here():
    with training(1, 1) as made:
        yield made


def test_spoiled_gradients_leave_the_loss_and_the_parameters_as_they_were(here):
    fields = dict(bos_id=BOS, seed=0, z_loss=Z_LOSS, loss_chunk_length=LENGTH)
    step = make_train_step(model=MODEL, plan=here.plan, **fields, edit_gradients=spoil)
    state, batch = init_state(here.plan, MODEL, seed=0), here.batch(targets(4))
    after, metrics = jax.jit(step)(state, batch)
    _, normal = here.step(init_state(here.plan, MODEL, seed=0), batch)
    assert float(metrics["loss"]) == float(normal["loss"])
    assert math.isnan(metrics["grad_norm"]) and float(metrics["skipped"]) == 1
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        assert np.array_equal(a, b)


def test_a_spike_pushes_the_parameters_and_the_loss_follows(here):
    batch = here.batch(targets(4))
    cursor = STREAM.cursor(5)
    pushed = faulty(here.step, SPOILED, parse_faults("spike@5"), STREAM)(cursor)
    _, metrics = pushed(init_state(here.plan, MODEL, seed=0), batch)
    _, normal = here.step(init_state(here.plan, MODEL, seed=0), batch)
    assert float(metrics["loss"]) > 2 * float(normal["loss"])
