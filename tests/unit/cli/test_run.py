import dataclasses
import json

import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.cli import gin_config
from palmscale.cli import run as runs
from palmscale.cli.run import Component, Data, Layout, Reporting, Run, load_run
from palmscale.data.files import StandardLibrary
from palmscale.data.records import Jsonl
from palmscale.data.sources import Corpus
from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.optim.build import Adafactor, AdamW
from palmscale.optim.schedules import InverseSqrt, WarmupCosine
from palmscale.partition.mesh import MeshSpec
from palmscale.train.loop import Periods

MODEL = PaLM(dim=16, num_tokens=32, depth=2, heads=2, dim_head=8)
ADAFACTOR = Adafactor(
    learning_rate=InverseSqrt(peak=1e-2, hold_steps=10_000),
    beta1=0.9,
    beta2_exponent=0.8,
    weight_decay_lr_exponent=2.0,
    clip_global_norm=1.0,
)
ADAMW = AdamW(
    learning_rate=WarmupCosine(peak=1e-3, warmup_steps=5, total_steps=50),
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_global_norm=None,
)
DATA = Data(corpus=Corpus(source=StandardLibrary()), sequence_length=32, seed=0)
RUN = Run(
    model=MODEL,
    optimizer=ADAFACTOR,
    data=DATA,
    layout=Layout(mesh=MeshSpec()),
    batch_schedule=BatchSchedule(((0, 8), (100, 16))),
    train_steps=200,
    z_loss=1e-4,
    seed=0,
    periods=Periods(eval_every_steps=10, save_every_steps=10),
)


def changed(**fields):
    return dataclasses.replace(RUN, **fields)


def resumed(new, allow_changes=(), data_digest="d"):
    """Checks `new` against a checkpoint of RUN, whose identity has been through JSON."""
    old = json.loads(json.dumps(RUN.identity({"": "d"})))
    return runs.check_same_run(old, new.identity({"": data_digest}), allow_changes)


def part(name, weight=1.0, **fields):
    where = fields or {"corpus": Corpus(source=StandardLibrary())}
    return Component(name=name, weight=weight, **where)


def mixed(*components, **fields):
    return dataclasses.replace(DATA, corpus=None, components=components, **fields)


MIXTURE = mixed(part("a", 3), part("b", ((0, 1), (10, 0), (20, 2))), part("c", 1.5, cache="there"))


@pytest.mark.parametrize(
    "free",
    [
        {"train_steps": 900},
        {"periods": Periods(eval_every_steps=None, save_every_steps=3)},
        {"layout": Layout(mesh=MeshSpec(data=4, model=2), rules="tensor", simulated_devices=8)},
        {"keep": KeepPolicy(latest=9)},
        {"reporting": Reporting(tensorboard=True, sample_prompt="x")},
        {"held_out_sequences": 5},
        {"allow_changes": ("seed",)},
        {"data": dataclasses.replace(DATA, cache="elsewhere", cache_directory="there")},
    ],
    ids=lambda free: next(iter(free)),
)
def test_mesh_periods_steps_and_reports_may_change(free):
    assert resumed(changed(**free)) == {}


@pytest.mark.parametrize(
    ("held", "name"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"z_loss": 0.0}, "z_loss: 0.0001 -> 0.0"),
        ({"loss_chunk_length": 8}, "loss_chunk_length: 512 -> 8"),
        ({"microbatches": 2}, "microbatches: 1 -> 2"),
        ({"batch_schedule": BatchSchedule(((0, 8),))}, "batch_schedule.stages: "),
        ({"model": MODEL.clone(depth=3)}, "model.depth: 2 -> 3"),
        ({"model": MODEL.clone(remat="full")}, "model.remat: 'none' -> 'full'"),
        ({"optimizer": dataclasses.replace(ADAFACTOR, beta1=0.8)}, "optimizer.beta1: 0.9 -> 0.8"),
        ({"data": dataclasses.replace(DATA, seed=4)}, "data.seed: 0 -> 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_decides_the_numbers_may_not_change_unless_named(held, name):
    with pytest.raises(UserError) as refused:
        resumed(changed(**held))
    message = str(refused.value)
    assert name in message and "--workdir" in message and "--gin.ALLOW_CHANGES=" in message
    dotted = name.partition(":")[0]
    assert list(resumed(changed(**held), (dotted,))) == [dotted]
    assert list(resumed(changed(**held), (dotted.partition(".")[0],))) == [dotted]


def test_other_rows_are_another_run():
    with pytest.raises(UserError, match="data.digest: 'd' -> 'e'"):
        resumed(RUN, data_digest="e")


def test_another_optimizer_is_named_by_its_class_and_every_field():
    changes = resumed(changed(optimizer=ADAMW), ("optimizer",))
    old, new = changes["optimizer.class"]
    assert (old, new) == (
        "palmscale.optim.build:Adafactor",
        "palmscale.optim.build:AdamW",
    )
    assert changes["optimizer.beta2"] == (None, 0.95)


def test_a_change_is_not_allowed_by_the_beginning_of_its_name():
    with pytest.raises(UserError, match="model.depth"):
        resumed(changed(model=MODEL.clone(depth=3)), ("model.dep", "mod"))


def test_the_message_gives_a_flag_that_lets_the_run_go_on():
    with pytest.raises(UserError) as refused:
        resumed(changed(seed=1, z_loss=0.0))
    flag = str(refused.value).rpartition('ALLOW_CHANGES="')[2].removesuffix('".')
    assert sorted(resumed(changed(seed=1, z_loss=0.0), eval(flag))) == ["seed", "z_loss"]


def test_differences_are_dotted_names_with_both_values():
    old = {"a": {"b": 1, "c": [1]}, "gone": 0, "same": None}
    new = {"a": {"b": 2, "c": [1]}, "came": 0, "same": None}
    assert runs.differences(old, new) == {"a.b": (1, 2), "came": (None, 0), "gone": (0, None)}


@pytest.mark.parametrize("model", [MODEL, PaLM(dim=8, num_tokens=9, depth=1, final_norm="none")])
def test_a_model_is_rebuilt_from_what_was_written_down(model):
    assert runs.rebuild_model(json.loads(json.dumps(runs.describe(model)))) == model


@pytest.mark.parametrize("optimizer", [ADAFACTOR, ADAMW])
def test_a_description_is_json_and_names_the_classes(optimizer):
    described = runs.describe(optimizer)
    assert json.loads(json.dumps(described)) == described
    assert described["class"] == f"palmscale.optim.build:{type(optimizer).__name__}"
    assert described["learning_rate"]["peak"] == optimizer.learning_rate.peak


def test_a_model_whose_module_is_absent_is_named():
    with pytest.raises(UserError, match="my_models.Wide, which cannot be imported"):
        runs.rebuild_model({"class": "my_models:Wide", "dim": 4})
    with pytest.raises(UserError, match="palmscale.model.palm.PaLM2"):
        runs.rebuild_model({"class": "palmscale.model.palm:PaLM2"})


@pytest.mark.parametrize("field", ["train_steps", "microbatches", "loss_chunk_length"])
def test_counts_are_at_least_one(field):
    with pytest.raises(UserError, match=f"{field.upper()}=0"):
        changed(**{field: 0})


def test_a_module_without_the_two_methods_is_refused():
    with pytest.raises(UserError, match="Dense offers no `hidden`; .*unembed"):
        changed(model=nn.Dense(4))


def test_a_batch_divides_over_devices_and_microbatches():
    RUN.check_batches(8)
    with pytest.raises(UserError, match="BATCH_SCHEDULE has 8 sequences.*multiple of 16"):
        changed(microbatches=2).check_batches(8)
    with pytest.raises(UserError, match="over 3 data-parallel devices"):
        RUN.check_batches(3)


def test_the_parts_of_a_mixture_are_its_components_and_of_a_corpus_itself():
    parts = MIXTURE.parts()
    assert list(parts) == ["a", "b", "c"]
    assert parts["a"] == DATA
    assert parts["c"] == dataclasses.replace(DATA, corpus=None, cache="there")
    assert DATA.parts() == {"": DATA}


def test_weights_hold_from_their_step_on():
    assert MIXTURE.weight_stages() == [
        (0, {"a": 3, "b": 1, "c": 1.5}),
        (10, {"a": 3, "b": 0, "c": 1.5}),
        (20, {"a": 3, "b": 2, "c": 1.5}),
    ]
    assert [MIXTURE.weights_at(step)["b"] for step in (9, 10, 19, 20, 999)] == [1, 0, 0, 2, 2]
    assert DATA.weights_at(7) == {"": 1.0}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: part("a/b"), "the name 'a/b' - needed are letters"),
        (lambda: part(""), "the name ''"),
        (lambda: part("a", -1), "the component a has weight=-1"),
        (lambda: part("a", float("nan")), "weight=nan"),
        (lambda: part("a", ()), "weight=()"),
        (lambda: part("a", ((1, 2.0),)), "first steps begin at 0 and increase"),
        (lambda: part("a", ((0, 2.0), (5, 1.0), (5, 2.0))), "first steps begin at 0 and increase"),
        (lambda: part("a", corpus=None), "the component a has neither of corpus and cache"),
        (lambda: part("a", corpus=DATA.corpus, cache="x"), "a has both of corpus and cache"),
        (lambda: mixed(part("a"), part("a")), "the name a more than once"),
        (lambda: mixed(part("a", 0), part("b", ((0, 1), (9, 0)))), "no component has weight from"),
        (lambda: mixed(part("a"), cache="x"), "components and a corpus or cache of its own"),
        (lambda: mixed(), "no corpus, components or cache"),
    ],
)
def test_a_wrong_mixture_is_refused_by_name(wrong, message):
    with pytest.raises(UserError) as refused:
        wrong()
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_another_weight_or_other_rows_of_one_component_are_another_run():
    digests = {"a": "d", "b": "e", "c": "f"}
    run = changed(data=MIXTURE)
    old = json.loads(json.dumps(run.identity(digests)))
    assert runs.check_same_run(old, run.identity(digests), ()) == {}
    with pytest.raises(UserError, match=r"data.digest.b: 'e' -> 'x'"):
        runs.check_same_run(old, run.identity(digests | {"b": "x"}), ())
    heavier = changed(data=mixed(part("a", ((0, 3), (50, 4))), *MIXTURE.components[1:]))
    name = "data.weight.a"
    with pytest.raises(UserError, match=rf"{name}: \[\[0, 3\]\] -> \[\[0, 3\], \[50, 4\]\]"):
        runs.check_same_run(old, heavier.identity(digests), ())
    assert list(runs.check_same_run(old, heavier.identity(digests), (name,))) == [name]
    assert run.identity(digests)["data"]["weight"]["a"] == [[0, 3]]


def test_the_papers_mixture_has_the_papers_weights_and_goes_with_a_recipe():
    weights = {"social": 50, "webpages": 27, "books": 13, "code": 5, "wikipedia": 4, "news": 1}
    files = [f"{name.upper()}_FILES={name}/*.jsonl.zst" for name in weights]
    given = ["configs/recipes/palm_8b_v4_64.gin", "configs/data/palm_mixture.gin"]
    try:
        run = load_run(given, files)
    finally:
        gin_config.reset()
    assert run.data.weights_at(0) == weights and sum(weights.values()) == 100
    for name, data in run.data.parts().items():
        assert data.corpus.source == Jsonl(files=f"{name}/*.jsonl.zst")
        assert data.sequence_length == 2048


def test_what_a_layout_is_meant_for_is_recorded_and_no_part_of_the_identity():
    options = {"xla_enable_async_all_gather": True}
    layout = Layout(mesh=MeshSpec(), topology="v4:4x4x4", slices=2, tpu_options=options)
    made = dataclasses.replace(RUN, layout=layout)
    described = runs.describe(made)["layout"]
    assert (described["topology"], described["slices"]) == ("v4:4x4x4", 2)
    assert described["tpu_options"] == options
    assert made.identity({"": "d"}) == RUN.identity({"": "d"})
    with pytest.raises(UserError, match="SLICES=0 must be at least 1"):
        Layout(mesh=MeshSpec(), slices=0)


def test_names_of_a_remat_policy_survive_a_checkpoint():
    model = MODEL.clone(remat=("query", "gate@host"))
    written = json.loads(json.dumps(runs.describe(model)))
    assert runs.rebuild_model(written) == model
    assert runs.differences(written, runs.describe(model)) == {}
