"""Every gin file loads, every size file states its exact count, and every recipe is explained."""

import dataclasses
import math
import re

import jax
import pytest
import source_tree

from palmscale import PaLM
from palmscale.cli import main
from palmscale.cli.config import load, moved
from palmscale.cli.config.load import load_run
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.optim.schedules import Constant
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

CONFIGS = source_tree.CHECKOUT / "configs"
PRETRAIN, MESH = "configs/runs/pretrain.gin", "configs/meshes/mesh.gin"
REQUIRED = ["SEQUENCE_LENGTH=32", "BATCH_SCHEDULE=((0, 8),)", "TRAIN_STEPS=1000"]
PUBLISHED = {"palm_8b": 8_631_877_632, "palm_62b": 62_495_129_600, "palm_540b": 540_354_281_472}


def names(folder):
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.gin"))


POD_RECIPES = [name for name in names("recipes") if name.startswith("palm_")]


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    load.reset()


def model_of(name):
    return load_run([PRETRAIN, f"configs/models/{name}.gin", MESH], REQUIRED).model


def count(model, *, norm_scales):
    """Elements of the parameters, by their names rather than by their logical axes."""
    leaves = jax.tree_util.tree_leaves_with_path(unbox(abstract_params(model)))
    return sum(
        leaf.size
        for path, leaf in leaves
        if norm_scales or "norm" not in jax.tree_util.keystr(path)
    )


@pytest.mark.parametrize("name", names("models"))
def test_another_vocabulary_needs_num_tokens_alone(name):
    """As docs/vocabulary.md says; the table is no larger than that takes."""
    files = [PRETRAIN, f"configs/models/{name}.gin", MESH]
    model = load_run(files, [*REQUIRED, "NUM_TOKENS=32000"]).model
    assert model.num_tokens == 32_000 <= model.stored_tokens < 32_000 + 384


@pytest.mark.parametrize("name", names("models"))
def test_a_size_file_states_its_exact_counts_in_its_first_line(name):
    first_line = (CONFIGS / f"models/{name}.gin").read_text().splitlines()[0]
    form = r"# ([\d,]+) parameters .* norm scales, ([\d,]+) tokens.*stored: ([\d,]+) \(([\d,]+) "
    published, tokens, stored, rows = (
        int(number.replace(",", "")) for number in re.match(form, first_line).groups()
    )
    model = model_of(name)
    assert (model.num_tokens, model.stored_tokens) == (tokens, rows)
    assert count(model.clone(padded_tokens=None), norm_scales=False) == published
    assert count(model, norm_scales=True) == stored
    assert PUBLISHED.get(name, published) == published


@pytest.mark.parametrize("name", names("models"))
def test_the_padded_table_follows_the_vocabulary(name):
    files = [PRETRAIN, f"configs/models/{name}.gin", MESH]
    for tokens in 300, 8_000, 300_000:
        model = load_run(files, [*REQUIRED, f"NUM_TOKENS={tokens}"]).model
        assert tokens <= model.stored_tokens < tokens + 384
    model = load_run(files, [*REQUIRED, "NUM_TOKENS=300", "PADDED_TOKENS=512"]).model
    assert model.stored_tokens == 512


def test_the_papers_sizes_are_all_there_and_have_their_shapes():
    shapes = {name: model_of(name) for name in PUBLISHED}
    assert [(m.depth, m.heads, m.dim, m.dim_head) for m in shapes.values()] == [
        (32, 16, 4096, 256),
        (64, 32, 8192, 256),
        (118, 48, 18432, 256),
    ]
    for model in shapes.values():
        assert (model.norm, model.final_norm, model.ff_mult) == ("rms", "unscaled", 4)
        assert (model.num_tokens, model.dtype, model.dropout) == (256_000, "bfloat16", 0.0)


@pytest.mark.parametrize("name", names("meshes"))
def test_a_mesh_file_goes_with_any_run_and_model(name):
    run = load_run(
        [PRETRAIN, "configs/models/palm_cpu_1m.gin", f"configs/meshes/{name}.gin"], REQUIRED
    )
    assert run.layout.rules == "2d"


@pytest.mark.parametrize("name", names("optim"))
def test_an_optimizer_file_replaces_the_optimizer(name):
    files = [PRETRAIN, f"configs/optim/{name}.gin", "configs/models/palm_cpu_1m.gin", MESH]
    wanted = {"palm_adafactor": "Adafactor", "adamw": "AdamW"}
    assert type(load_run(files, REQUIRED).optimizer).__name__ == wanted[name]


@pytest.mark.parametrize("name", names("evals"))
def test_an_evaluation_file_adds_to_any_run(name):
    files = [PRETRAIN, "configs/models/palm_cpu_1m.gin", MESH, f"configs/evals/{name}.gin"]
    run = load_run(files, [*REQUIRED, "TASKS=('hellaswag',)", "TASKS_LIMIT=0.5"])
    (described,) = run.evaluations
    assert (described.tasks, described.every_steps, described.limit) == (("hellaswag",), 1000, 0.5)


@pytest.mark.parametrize("name", [n for n in names("runs") if n not in ("pretrain", "finetune")])
def test_a_run_loads_by_itself(name):
    assert load_run([f"configs/runs/{name}.gin"], []).training.steps > 0


FINETUNE = ["BASE=tests/golden/workdirs/0.1.0/palm", "JSONL_FILES=a.jsonl", "TRAIN_STEPS=9"]


def test_fine_tuning_is_the_papers_and_takes_the_rest_from_its_base():
    """Section 6.1.2: Adafactor at a constant 5e-5, batches of 32 and dropout 0.1."""
    run = load_run(["configs/runs/finetune.gin"], FINETUNE)
    assert run.optimizer == dataclasses.replace(
        load_run(["configs/runs/quickstart.gin"], []).optimizer, learning_rate=Constant(value=5e-5)
    )
    assert run.training.batch_schedule.stages == ((0, 32),)
    assert run.model == PaLM(
        dim=4,
        num_tokens=259,
        padded_tokens=272,
        depth=1,
        dim_head=2,
        heads=2,
        remat="full",
        query_chunk=64,
        dropout=0.1,
    )
    assert (run.data.sequence_length, run.data.packing) == (32, "segments")
    assert run.warm_start.workdir == FINETUNE[0][5:]
    assert run.data.corpus.source == Jsonl(
        files="a.jsonl", prompt_key="prompt", text_key="completion"
    )


def test_a_fine_tune_of_a_size_needs_no_base_to_be_planned():
    files = ["configs/runs/finetune.gin", "configs/models/palm_8b.gin"]
    given = ["BASE=gs://mine/8b", "VOCABULARY=bytes", "SEQUENCE_LENGTH=2048"]
    run = load_run(files, [*given, *FINETUNE[1:], "PaLM.dropout=0.1"])
    assert run.model == model_of("palm_8b").clone(dropout=0.1)


@pytest.mark.parametrize("name", names("recipes"))
def test_a_recipe_loads_and_is_explained(name, capsys):
    recipe = f"configs/recipes/{name}.gin"
    run = load_run([recipe], [])
    assert main.run(["explain", f"--gin_file={recipe}"]) == 0
    explained = capsys.readouterr().out
    assert f"{count(run.model, norm_scales=True):,} stored" in explained
    assert "\x1b" not in explained


@pytest.mark.parametrize("name", names("recipes") + names("runs"))
def test_a_recipe_says_what_it_is_and_what_to_override(name):
    folder = "recipes" if name in names("recipes") else "runs"
    text = (CONFIGS / f"{folder}/{name}.gin").read_text()
    header = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in header.split("\n") if line)
    assert re.search("overrid", header, re.IGNORECASE)


def test_the_papers_runs_train_on_the_papers_number_of_sequences():
    runs = {name: load_run([f"configs/runs/{name}.gin"], []) for name in PUBLISHED}
    sequences = {r.training.batch_schedule.rows_before(r.training.steps) for r in runs.values()}
    assert sequences == {378_880_000}  # x 2,048 tokens = 775.9 billion
    assert {run.data.sequence_length for run in runs.values()} == {2048}
    assert runs["palm_540b"].training.batch_schedule.stages == (
        (0, 512),
        (50_000, 1024),
        (115_000, 2048),
    )
    assert runs["palm_540b"].training.steps == 255_000


@pytest.mark.parametrize("name", POD_RECIPES)
def test_a_pod_recipe_is_for_the_chips_that_its_name_and_header_state(name):
    path = CONFIGS / f"recipes/{name}.gin"
    run, header = load_run([f"configs/recipes/{name}.gin"], []), path.read_text().splitlines()[0]
    size, chip, count = re.fullmatch(r"palm_(\d+b)_(v\w+)_(\d+)", name).groups()
    layout, mesh = run.layout, run.layout.mesh
    generation, dims = layout.topology.split(":")
    chips = layout.slices * math.prod(map(int, dims.split("x")))
    assert (generation, chips) == (chip, int(count))
    assert mesh.replicas % layout.slices == 0  # no replica lies over two slices
    assert mesh.replicas * mesh.data * mesh.model == chips
    stated = f"# PaLM {size.upper()} on {chips:,} TPU {chip}"
    assert header.startswith(stated) and f"data {mesh.data} x model {mesh.model}" in header
    assert count_of_size(run.model) == PUBLISHED[f"palm_{size}"]
    run.training.check_batches(mesh.replicas * mesh.data)
    assert layout.tpu_options


def count_of_size(model):
    return count(model.clone(padded_tokens=None), norm_scales=False)


@pytest.mark.parametrize("name", [name for name in POD_RECIPES if "540b" in name])
def test_the_540b_table_divides_over_both_axes_in_whole_tiles(name):
    run = load_run([f"configs/recipes/{name}.gin"], [])
    mesh, rows = run.layout.mesh, run.model.stored_tokens
    assert (mesh.replicas, mesh.data, mesh.model) == (run.layout.slices, 256, 12)
    assert rows % mesh.model == 0 and rows % (16 * mesh.data) == 0
    assert rows - 256_000 < 12 * 16 * mesh.data


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin")), ids=lambda path: path.stem)
def test_palmscales_own_files_use_short_names_of_today(path):
    text = path.read_text()
    assert "palmscale." not in text and "dynamic_registration" not in text
    assert not any(old in text for old in moved.MACROS)


def test_the_papers_mixture_has_the_papers_weights_and_goes_with_a_recipe():
    weights = {"social": 50, "webpages": 27, "books": 13, "code": 5, "wikipedia": 4, "news": 1}
    files = [f"{name.upper()}_FILES={name}/*.jsonl.zst" for name in weights]
    given = ["configs/recipes/palm_8b_v4_64.gin", "configs/data/palm_mixture.gin"]
    run = load_run(given, files)
    assert run.data.weights_at(0) == weights and sum(weights.values()) == 100
    for name, data in run.data.parts().items():
        assert data.corpus.source == Jsonl(files=f"{name}/*.jsonl.zst")
        assert data.sequence_length == 2048
