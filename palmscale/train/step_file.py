"""Compiled steps in files: compile on one machine, load on many of the same kind.

Loading a file executes its content, so load only files from a source that you trust. A file loads
only for the same step, the same versions and the same kind of device.
"""

import gzip
import json
import pickle
from collections.abc import Mapping

import jax
from jax.experimental import serialize_executable

from palmscale.errors import UserError
from palmscale.storage.place import Place

_MAGIC = b"palmscale compiled step 1\n"


def save_step(
    path: Place, compiled: jax.stages.Compiled, *, digest: str, versions: Mapping[str, str]
) -> None:
    """Writes a compiled step to a file, with the digest and versions that loading compares.

    Args:
        path: the file.
        compiled: the step; its devices need not exist here.
        digest: digest of the lowered program.
        versions: versions of the packages that compiled it.
    """
    program, _, _ = serialize_executable.serialize(compiled)
    made_for = {"digest": digest, "versions": dict(versions)}
    header = json.dumps(made_for).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_MAGIC + header + gzip.compress(program, compresslevel=6))


def load_step(
    path: Place, lowered: jax.stages.Lowered, *, digest: str, versions: Mapping[str, str]
) -> jax.stages.Compiled:
    """Loads a compiled step from a trusted file, instead of compiling `lowered`.

    Raises:
        UserError: the file is missing or not valid, or was compiled for another step, other
            versions or other devices.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"step_file={path} does not exist; expected a file written by `palmscale plan`; omit it"
            " to compile here."
        ) from None
    if not content.startswith(_MAGIC):
        raise UserError(
            f"step_file={path} is not a compiled step; expected a file written by `palmscale plan`."
        )
    header, _, program = content.removeprefix(_MAGIC).partition(b"\n")
    made_for, here = json.loads(header), {"digest": digest, "versions": dict(versions)}
    if made_for != here:
        raise UserError(
            f"step_file={path} was compiled for {_difference(made_for, here)}; write it again, or"
            " omit it to compile here."
        )
    trees = jax.tree.structure(lowered.args_info), lowered.out_tree
    try:
        return serialize_executable.deserialize_and_load(gzip.decompress(program), *trees)
    except (jax.errors.JaxRuntimeError, ValueError, EOFError, OSError, pickle.PickleError) as error:
        raise UserError(
            f"step_file={path} does not load here: {str(error).splitlines()[0]}; load it on the"
            " devices that it was compiled for, or omit it to compile here."
        ) from None


def _difference(made_for: Mapping[str, object], here: Mapping[str, object]) -> str:
    if made_for["digest"] != here["digest"]:
        return "another step (the digest of its program differs)"
    old, new = made_for["versions"], here["versions"]
    return ", ".join(
        f"{name} {old.get(name)} (here: {new.get(name)})"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
