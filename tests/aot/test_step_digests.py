"""Each recipe's lowered step is the program that it was, on the topology that it is meant for."""

import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import source_tree

GOLDEN = source_tree.CHECKOUT / "tests/golden/step_digests.json"


def program_digest(text):
    """SHA-256 of a lowered program, kernels' bodies apart: they hold the path of JAX's files."""
    return hashlib.sha256(re.sub(r"\\22body\\22: \\22[^\\]*\\22", "", text).encode()).hexdigest()


def lowered_programs(recipes):
    """The text of each recipe's lowered step; recipe to (topology, sequences a step)."""
    from palmscale.cli.config.load import load_run
    from palmscale.data.feed import batch_shapes
    from palmscale.plan.hardware import libtpu, topology
    from palmscale.run.session import compiled_step, plan_session

    with libtpu.compiler():
        for recipe, (name, sequences) in recipes.items():
            run = load_run([f"configs/recipes/{recipe}.gin"])
            slices, _, name = name.rpartition(" x ")
            where = topology.parse(name, int(slices or 1))
            with plan_session(run, libtpu.devices_of(where)) as session:
                batch = batch_shapes(
                    sequences,
                    run.data.sequence_length,
                    session.layout.batch_sharding,
                    is_packed=False,
                )
                yield recipe, compiled_step(run, session).lower(batch).as_text()


def test_every_recipes_step_is_the_program_that_it_was(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    recipes = {path.stem for path in (source_tree.CHECKOUT / "configs/recipes").glob("*.gin")}
    assert golden.keys() == recipes
    found = tmp_path / "found.json"
    subprocess.run(
        [sys.executable, __file__, found], check=True, cwd=source_tree.CHECKOUT, timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    digests = json.loads(found.read_text())
    if os.environ.get("UPDATE_GOLDEN"):
        golden = {name: one | {"digest": digests[name]} for name, one in golden.items()}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert digests == {name: one["digest"] for name, one in golden.items()}


if __name__ == "__main__":
    wanted = {
        name: (one["topology"], one["batch_sequences"])
        for name, one in json.loads(GOLDEN.read_text()).items()
    }
    digests = {name: program_digest(text) for name, text in lowered_programs(wanted)}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(digests))
