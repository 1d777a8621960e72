"""Imports point down the table of layers: each package knows those below it, and no other."""

import ast
import collections
import re
import subprocess
import sys

import source_tree as tree

LAYERS = (  # bottom first; a package may import only from layers below its own
    {"axes", "errors", "trees"},
    {"exit_codes", "seeds"},
    {"storage"},
    {"partition", "cluster", "observe"},
    {"model", "data", "optim", "checkpoint"},
    {"train", "infer", "interop"},
    {"run"},
    {"plan", "evals", "serve", "report"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
EDGE = {"__init__", "__main__"}  # the package's own front doors

# Where a library may be imported, as beginnings of file names.
ONLY_IN = {
    "gin": ("cli/config/",),
    "absl.flags": ("cli/",),
    "argparse": ("cli/",),
    "os.environ": ("cli/",),
    "os.getenv": ("cli/",),
    "seqio": ("data/sources/", "evals/"),
    "tensorflow": ("data/sources/", "evals/"),
    "wandb": ("observe/writers.py",),
    "tensorboard": ("observe/writers.py",),
    "tensorboardX": ("observe/writers.py",),
    "orbax": ("checkpoint/arrays.py",),
    "gcsfs": ("storage/objects.py",),
    "llguidance": ("infer/guided.py",),
    "lm_eval": ("evals/lm_eval_model.py", "evals/lm_eval_tasks.py"),
    "qwix": ("infer/quantized.py", "model/attention.py"),
    "gguf": ("interop/gguf_",),
    "tokenizers": ("data/vocab/huggingface_tokenizer.py",),
    "torch": ("interop/torch_file.py", "interop/engines.py"),
    "transformers": ("interop/engines.py",),
    "xllamacpp": ("interop/engines.py",),
}
LAZY = {
    "seqio",
    "tensorflow",
    "wandb",
    "tensorboard",
    "tensorboardX",
    "llguidance",
    "qwix",
    "tokenizers",
    "torch",
    "transformers",
    "xllamacpp",
}  # inside functions only
FROM_PARTITION = {"constrain", "map_shards"}  # all that the model may know of layout


def _begins(name, library):
    return name == library or name.startswith(library + ".")


FRONT_DOORS = {"train/__init__.py", "plan/__init__.py"}  # they let the package be called


def test_imports_point_down():
    wrong = []
    for path in tree.files():
        owner = tree.owner(path)
        if owner in EDGE or tree.name(path) in FRONT_DOORS:
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


def test_the_environment_is_read_in_cli_and_where_a_process_finds_its_place():
    wrong = []
    for path in tree.files():
        if tree.owner(path) == "cli" or tree.name(path) == "run/place.py":
            continue
        for node in ast.walk(tree.parse(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "os.environ",
                "os.getenv",
                "os.putenv",
            }:
                wrong.append(f"{tree.name(path)}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_one_another_in_a_circle():
    modules = {
        "palmscale." + tree.name(path).removesuffix(".py").replace("/", "."): path
        for path in tree.files()
        if path.name != "__init__.py"
    }
    below = {
        module: {
            name
            for _, imported in tree.imports(tree.outside_functions(path))
            for name in (imported, imported.rpartition(".")[0])
            if name in modules and name != module
        }
        for module, path in modules.items()
    }
    while leaves := {module for module, names in below.items() if not names & below.keys()}:
        below = {module: names for module, names in below.items() if module not in leaves}
    assert not below, f"in a circle, or above one: {', '.join(sorted(below))}"


def _annotations(path):
    """Yields (line, text) of each annotation of a parameter."""
    for node in ast.walk(tree.parse(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            for argument in arguments:
                if argument.annotation is not None:
                    yield node.lineno, ast.unparse(argument.annotation)


def test_only_commands_take_their_arguments_as_a_namespace():
    wrong = [
        f"{tree.name(path)}:{line}: {text}"
        for path in tree.files()
        if tree.owner(path) != "cli"
        for line, text in _annotations(path)
        if "Namespace" in text
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_below_run_takes_a_run():
    wrong = [
        f"{tree.name(path)}:{line}: {text}"
        for path in tree.files()
        if LEVEL.get(tree.owner(path), LEVEL["run"]) < LEVEL["run"]
        for line, text in _annotations(path)
        if re.search(r"\bRun\b", text)
    ]
    assert not wrong, "\n".join(wrong)


SHARE = {"cli": 0.15, "data": 0.25, "plan": 0.25}  # of all lines; others at most 0.15


def test_no_room_holds_more_than_its_share_of_the_code():
    lines = collections.Counter()
    for path in tree.files():
        lines[tree.owner(path)] += len(path.read_text().splitlines())
    total = sum(lines.values())
    wrong = [
        f"{room}: {count / total:.1%}"
        for room, count in lines.items()
        if count > SHARE.get(room, 0.15) * total
    ]
    assert not wrong, ", ".join(wrong)


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
