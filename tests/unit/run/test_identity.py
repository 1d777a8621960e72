"""What a run is as JSON: written down, built again, and compared when it resumes."""

import dataclasses
import json

import pytest
from small_run import ADAFACTOR, ADAMW, DATA, MODEL, RUN, TRAINING

from palmscale.checkpoint.saving import Saving
from palmscale.data.dataset import Component
from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.observe.reporting import Reporting
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.run.identity import changes, check_same_run, flat, identity

SLOWER = dataclasses.replace(ADAFACTOR, beta1=0.8)


def changed(**fields):
    return dataclasses.replace(RUN, **fields)


def trained(**fields):
    return changed(training=dataclasses.replace(TRAINING, **fields))


def resumed(new, allow_changes=(), digest="d", old=RUN):
    """Checks `new` against a checkpoint of `old`, whose identity has been through JSON."""
    stored = json.loads(json.dumps(identity(old, {"": "d"})))
    steps = old.training.steps, new.training.steps
    return check_same_run(stored, identity(new, {"": digest}), allow_changes, steps=steps)


@pytest.mark.parametrize(
    "free",
    [
        trained(steps=900),
        trained(eval_every_steps=None, check_every_steps=3, rates_every_steps=5),
        trained(eval_sequences=5),
        changed(saving=Saving(every_steps=3)),
        changed(layout=Layout(mesh=MeshSpec(data=4, model=2), rules="tensor")),
        changed(layout=Layout(topology="v4:4x4x4", slices=2, tpu_options={"x": True})),
        changed(reporting=Reporting(tensorboard=True, sample_prompt="x")),
        changed(allow_changes=("seed",)),
        changed(data=dataclasses.replace(DATA, cache="elsewhere", cache_directory="there")),
    ],
    ids=["steps", "periods", "eval", "saving", "layout", "topology", "reporting", "allow", "data"],
)
def test_mesh_periods_steps_and_reports_may_change(free):
    assert resumed(free) == {}


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (trained(seed=1), "seed: 0 -> 1"),
        (trained(z_loss=0.0), "z_loss: 0.0001 -> 0.0"),
        (trained(loss_chunk_length=8), "loss_chunk_length: 32 -> 8"),
        (trained(gradient_accumulation_steps=2), "gradient_accumulation_steps: 1 -> 2"),
        (trained(batch_schedule=BatchSchedule(((0, 16),))), "batch_schedule.stages: "),
        (changed(model=MODEL.clone(depth=3)), "model.depth: 2 -> 3"),
        (changed(model=MODEL.clone(remat="full")), "model.remat: 'none' -> 'full'"),
        (changed(optimizer=SLOWER), "optimizer.beta1: 0.9 -> 0.8"),
        (changed(data=dataclasses.replace(DATA, seed=4)), "data.seed: 0 -> 4"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_decides_the_numbers_may_not_change_unless_allowed(held, name):
    with pytest.raises(UserError) as refused:
        resumed(held)
    dotted = name.partition(":")[0]
    assert name in str(refused.value) and f"Run.allow_changes=('{dotted}" in str(refused.value)
    assert list(resumed(held, (dotted,))) == [dotted]
    assert list(resumed(held, (dotted.partition(".")[0],))) == [dotted]


def test_the_value_that_the_message_gives_lets_the_run_resume():
    run = trained(seed=1, z_loss=0.0)
    with pytest.raises(UserError) as refused:
        resumed(run)
    allowed = str(refused.value).rpartition("Run.allow_changes=")[2].removesuffix(".")
    assert sorted(resumed(run, eval(allowed))) == ["seed", "z_loss"]


def cosine(steps, **fields):
    """RUN for `steps` steps with a schedule that ends there."""
    schedule = dataclasses.replace(ADAMW.learning_rate, total_steps=steps)
    optimizer = dataclasses.replace(ADAMW, learning_rate=schedule)
    return dataclasses.replace(trained(steps=steps, **fields), optimizer=optimizer)


@pytest.mark.parametrize("steps", [80, 30], ids=["longer", "shorter"])
def test_another_number_of_steps_under_a_schedule_that_ends_with_them_is_said_and_can_be_allowed(
    steps,
):
    name = "optimizer.learning_rate.total_steps"
    with pytest.raises(UserError) as refused:
        resumed(cosine(steps), old=cosine(50))
    message = str(refused.value)
    assert "schedule of the run in the workdir was made for 50 steps" in message
    assert f"Training.steps={steps} changes it ({name}: 50 -> {steps})" in message
    assert message.endswith(f"set Run.allow_changes=('{name}',).")
    assert resumed(cosine(steps), (name,), old=cosine(50)) == {name: (50, steps)}


def test_a_schedule_that_changes_with_more_than_the_steps_is_another_run():
    with pytest.raises(UserError, match="another run .*total_steps: 50 -> 80, seed: 0 -> 1"):
        resumed(cosine(80, seed=1), old=cosine(50))


def test_other_rows_are_another_run():
    with pytest.raises(UserError, match="data.digest: 'd' -> 'e'"):
        resumed(RUN, digest="e")


def test_another_optimizer_is_named_by_its_class_and_every_field():
    found = resumed(changed(optimizer=ADAMW), ("optimizer",))
    assert found["optimizer.class"] == ("Adafactor", "AdamW")
    assert found["optimizer.beta2"] == (None, 0.95)


def test_a_change_is_not_allowed_by_the_beginning_of_its_name():
    with pytest.raises(UserError, match="model.depth"):
        resumed(changed(model=MODEL.clone(depth=3)), ("model.dep", "mod"))


def test_an_identity_of_0_1_0_with_python_paths_and_old_names_is_the_same_run():
    def old_names(value):
        if isinstance(value, dict):
            value = {key: old_names(item) for key, item in value.items()}
            if value.get("class") == "PaLM":
                value["class"] = "palmscale.model.palm:PaLM"
            if value.get("class") in ("Adafactor", "InverseSqrt"):
                value["class"] = f"palmscale.optim.somewhere:{value['class']}"
            return value
        return value

    old = old_names(identity(RUN, {"": "d"}))
    old["microbatches"] = old.pop("gradient_accumulation_steps")
    assert check_same_run(old, identity(RUN, {"": "d"}), ()) == {}
    more = trained(gradient_accumulation_steps=2)
    assert list(check_same_run(old, identity(more, {"": "d"}), ("microbatches",))) == [
        "gradient_accumulation_steps"
    ]


def test_a_field_that_a_later_version_added_had_its_default():
    old = identity(RUN, {"": "d"})
    del old["model"]["rotary"]
    assert check_same_run(old, identity(RUN, {"": "d"}), ()) == {}
    with pytest.raises(UserError, match="model.rotary: 'rope' -> 'xpos'"):
        new = identity(changed(model=MODEL.clone(rotary="xpos")), {"": "d"})
        check_same_run(old, new, ())


def test_weights_and_rows_of_each_component_are_part_of_a_mixtures_identity():
    def run(weight=1.0):
        parts = (
            Component(name="a", weight=((0, 3), (9, weight)), cache="there"),
            Component(name="b", weight=2, cache="here"),
        )
        return changed(data=dataclasses.replace(DATA, corpus=None, components=parts))

    digests = {"a": "d", "b": "e"}
    old = json.loads(json.dumps(identity(run(), digests)))
    assert check_same_run(old, identity(run(), digests), ()) == {}
    with pytest.raises(UserError, match=r"data.digest.b: 'e' -> 'x'"):
        check_same_run(old, identity(run(), digests | {"b": "x"}), ())
    with pytest.raises(UserError, match=r"data.weight.a: \[\[0, 3\], \[9, 1.0\]\] -> "):
        check_same_run(old, identity(run(4), digests), ())


def test_changes_are_dotted_names_with_both_values():
    old = {"a": {"b": 1, "c": [1]}, "gone": 0, "same": None}
    new = {"a": {"b": 2, "c": [1]}, "came": 0, "same": None}
    assert changes(old, new) == {"a.b": (1, 2), "came": (None, 0), "gone": (0, None)}


def test_a_nested_value_is_its_leaves_by_dotted_names():
    value = {"model": {"class": "PaLM", "dims": [1, 2]}, "seed": 0}
    assert flat(value) == [("model.class", "PaLM"), ("model.dims", [1, 2]), ("seed", 0)]
    assert flat(3) == [("", 3)]
