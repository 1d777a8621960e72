"""Each recipe for TPUs compiles, fits, and is the program that it was: memory, bytes, FLOPs."""

import json
import os
import pathlib
import sys

import forked
import pytest
import source_tree

RECIPES = sorted(
    path.stem
    for path in (source_tree.CHECKOUT / "configs/recipes").glob("*.gin")
    if "TOPOLOGY" in path.read_text()
)
# The gin files of a recipe with a model that compiles in seconds: the whole ones take a minute and
# more each, and are for `pytest -m pod`.
SMALL = (
    "PaLM.depth=2",
    "PaLM.dim=512",
    "PaLM.heads=4",
    "NUM_TOKENS=32_000",
    "PADDED_TOKENS=32_128",
    "SEQUENCE_LENGTH=1024",
    "LOSS_CHUNK_LENGTH=1024",
    "BATCH_SCHEDULE=((0, 8),)",
    "TOPOLOGY='v4:2x2x1'",
    "DATA=4",
)
GOLDEN = source_tree.CHECKOUT / "tests/golden"
DRIFT = 0.02


def planned(recipe, workdir, batch="all", bindings=()):
    """Plans of the stages of a recipe's batch schedule, the largest last."""
    command = [sys.executable, "-m", "palmscale", "plan", f"--workdir={workdir}", "--suggest=0"]
    command += [f"--gin_file=configs/recipes/{recipe}.gin", f"--batch={batch}"]
    done = forked.run(
        [*command, *(f"--gin.{binding}" for binding in bindings)],
        cwd=source_tree.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((pathlib.Path(workdir) / "plan.json").read_text())["plans"]


def summary(plan, smallest_collective=2**30):
    """What must not drift: a device's bytes, the bytes that travel, and what is computed."""
    return {
        "needed_bytes": plan["memory"]["needed_bytes"],
        "state_bytes": sum(plan["memory"]["state_bytes"].values()),
        "cycles": plan["compute"]["cycles"],
        "kernel_flops_per_device": plan["compute"]["kernel_flops_per_device"],
        "matmul_flops": plan["compute"]["matmul_flops"],
        "collective_bytes": {
            name: size
            for name, size in plan["collective_bytes"].items()
            if size >= smallest_collective
        },
    }


def flat(value, name=""):
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}


def drifted(found, name):
    """What differs from the golden of that name: (old, new) by its path."""
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    old, new = flat(json.loads(path.read_text())), flat(found)
    return {
        name: (old.get(name, 0), new.get(name, 0))
        for name in old.keys() | new.keys()
        if abs(new.get(name, 0) - old.get(name, 0)) > DRIFT * max(old.get(name, 0), 1)
    }


def test_a_recipe_with_a_small_model_fits_and_has_not_drifted(tmp_path):
    (plan,) = planned("palm_8b_v4_64", tmp_path, bindings=SMALL)
    assert plan["fits"]
    assert drifted(summary(plan, smallest_collective=2**24), "small_palm_8b_v4_64") == {}


@pytest.mark.pod
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_fits_and_has_not_drifted(recipe, tmp_path):
    plans = planned(recipe, tmp_path)
    assert all(plan["fits"] for plan in plans)
    assert drifted(summary(plans[-1]), recipe) == {}


def test_every_recipe_has_its_golden_summary():
    assert {path.stem for path in GOLDEN.glob("palm_*.json")} == set(RECIPES)
