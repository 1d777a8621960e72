"""Each recipe for TPUs compiles, fits, and is the program that it was: memory, bytes, FLOPs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import source_tree

RECIPES = sorted(
    path.stem
    for path in (source_tree.CHECKOUT / "configs/recipes").glob("*.gin")
    if "TOPOLOGY" in path.read_text()
)
EVERY_RUN = {"palm_8b_v4_64"}  # the others take minutes: `pytest -m pod`
GOLDEN = source_tree.CHECKOUT / "tests/golden"
DRIFT = 0.02


def planned(recipe, workdir, batch):
    """Plans of the stages of a recipe's batch schedule, the largest last."""
    command = [sys.executable, "-m", "palmscale", "plan", f"--workdir={workdir}", "--suggest=0"]
    done = subprocess.run(
        [*command, f"--gin_file=configs/recipes/{recipe}.gin", f"--batch={batch}"],
        cwd=source_tree.CHECKOUT,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((pathlib.Path(workdir) / "plan.json").read_text())["plans"]


def summary(plan):
    """What must not drift: a device's bytes, the bytes that travel, and what is computed."""
    return {
        "needed_bytes": plan["memory"]["needed_bytes"],
        "state_bytes": sum(plan["memory"]["state_bytes"].values()),
        "cycles": plan["compute"]["cycles"],
        "kernel_flops_per_device": plan["compute"]["kernel_flops_per_device"],
        "matmul_flops": plan["compute"]["matmul_flops"],
        "collective_bytes": {
            name: size for name, size in plan["collective_bytes"].items() if size >= 2**30
        },
    }


def flat(value, name=""):
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=() if name in EVERY_RUN else pytest.mark.pod) for name in RECIPES],
)
def test_the_recipe_fits_and_has_not_drifted(recipe, tmp_path):
    plans = planned(recipe, tmp_path, "largest" if recipe in EVERY_RUN else "all")
    assert all(plan["fits"] for plan in plans)
    found = summary(plans[-1])
    path = GOLDEN / f"{recipe}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    old, new = flat(json.loads(path.read_text())), flat(found)
    drifted = {
        name: (old.get(name, 0), new.get(name, 0))
        for name in old.keys() | new.keys()
        if abs(new.get(name, 0) - old.get(name, 0)) > DRIFT * max(old.get(name, 0), 1)
    }
    assert not drifted


def test_every_recipe_has_its_golden_summary():
    assert {path.stem for path in GOLDEN.glob("palm_*.json")} == set(RECIPES)
