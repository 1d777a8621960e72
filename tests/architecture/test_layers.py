"""Imports point down the table of layers: each package knows those below it, and no other."""

import ast
import subprocess
import sys

import source_tree as tree

LAYERS = (  # bottom first; a package may import only from layers below its own
    {"axes", "errors"},
    {"storage"},
    {"partition", "cluster", "observe"},
    {"model", "data", "optim", "checkpoint"},
    {"train", "infer", "interop"},
    {"evals", "plan"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
EDGE = {"__init__", "__main__"}  # the package's own front doors

# Where a library may be imported, as beginnings of file names.
ONLY_IN = {
    "gin": ("cli/gin_config.py",),
    "absl.flags": ("cli/",),
    "argparse": ("cli/",),
    "os.environ": ("cli/",),
    "os.getenv": ("cli/",),
    "seqio": ("data/tasks.py", "data/sources.py", "evals/tasks.py"),
    "tensorflow": ("data/tasks.py", "data/sources.py", "evals/tasks.py"),
    "wandb": ("observe/writers.py",),
    "tensorboard": ("observe/writers.py",),
    "tensorboardX": ("observe/writers.py",),
    "orbax": ("checkpoint/arrays.py",),
    "gcsfs": ("storage/objects.py",),
}
LAZY = {"seqio", "tensorflow", "wandb", "tensorboard", "tensorboardX"}  # inside functions only
FROM_PARTITION = {"constrain", "map_shards"}  # all that the model may know of layout


def _begins(name, library):
    return name == library or name.startswith(library + ".")


def test_imports_point_down():
    wrong = []
    for path in tree.files():
        owner = tree.owner(path)
        if owner in EDGE:
            continue
        for line, imported in tree.all_imports(path):
            first, *rest = imported.split(".")
            if first == "" or (
                first == "palmscale" and rest and rest[0] not in {owner, "__version__", *LEVEL}
            ):
                wrong.append(f"{tree.name(path)}:{line}: {imported} is not in the table of layers")
            elif first == "palmscale" and rest and rest[0] in LEVEL and rest[0] != owner:
                if LEVEL[rest[0]] >= LEVEL[owner]:
                    wrong.append(f"{tree.name(path)}:{line}: {owner} may not import {rest[0]}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_its_layer():
    assert {tree.owner(path) for path in tree.files()} <= set(LEVEL) | EDGE


def test_libraries_stay_where_they_belong():
    wrong = []
    for path in tree.files():
        for line, imported in tree.all_imports(path):
            for library, places in ONLY_IN.items():
                if _begins(imported, library) and not tree.name(path).startswith(places):
                    wrong.append(
                        f"{tree.name(path)}:{line}: {library} belongs in {' '.join(places)}"
                    )
    assert not wrong, "\n".join(wrong)


def test_optional_libraries_are_imported_inside_functions():
    wrong = []
    for path in tree.files():
        at_import = tree.imports(tree.outside_functions(path))
        wrong += [
            f"{tree.name(path)}:{line}: {n}" for line, n in at_import if n.partition(".")[0] in LAZY
        ]
    assert not wrong, "\n".join(wrong)


def test_the_environment_is_read_in_cli_only():
    wrong = []
    for path in tree.files():
        if tree.owner(path) == "cli":
            continue
        for node in ast.walk(tree.parse(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "os.environ",
                "os.getenv",
                "os.putenv",
            }:
                wrong.append(f"{tree.name(path)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_the_model_knows_only_constrain_and_map_shards():
    wrong = []
    for path in tree.files():
        if tree.owner(path) == "model":
            for line, imported in tree.all_imports(path):
                if (
                    _begins(imported, "palmscale.partition")
                    and imported.split(".")[-1] not in FROM_PARTITION
                ):
                    wrong.append(f"{tree.name(path)}:{line}: {imported}")
    assert not wrong, "\n".join(wrong)


def test_importing_palmscale_starts_neither_jax_nor_tensorflow():
    code = "import sys, palmscale; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert not {"jax", "jaxlib", "flax", "tensorflow", "seqio", "numpy"} & set(output.split())
