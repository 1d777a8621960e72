"""A compiled step in a file: compiled on one machine, loaded on many of the same kind.

Loading runs what is in the file: only files that you have made, or whose maker you trust. They load
where the step, the versions and the kind of device are those that they were made for.
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
    """Writes a compiled step, with what must agree where it is loaded.

    Args:
        path: the file.
        compiled: for devices that may not be here.
        digest: of the lowered program.
        versions: of what compiled it.
    """
    program, _, _ = serialize_executable.serialize(compiled)
    made_for = {"digest": digest, "versions": dict(versions)}
    header = json.dumps(made_for).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_MAGIC + header + gzip.compress(program, compresslevel=6))


def load_step(
    path: Place, lowered: jax.stages.Lowered, *, digest: str, versions: Mapping[str, str]
) -> jax.stages.Compiled:
    """Returns the compiled step of a trusted file, in place of compiling `lowered`.

    Raises:
        UserError: no such file, or it was made for another step, other versions or other devices.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"--compiled_step={path} is not there - needed is a file that palmscale plan"
            " --save_step wrote - leave the flag out to compile here"
        ) from None
    if not content.startswith(_MAGIC):
        raise UserError(
            f"--compiled_step={path} is no compiled step - needed is a file that palmscale plan"
            " --save_step wrote - name another"
        )
    header, _, program = content.removeprefix(_MAGIC).partition(b"\n")
    made_for, here = json.loads(header), {"digest": digest, "versions": dict(versions)}
    if made_for != here:
        raise UserError(
            f"--compiled_step={path} was made for {_difference(made_for, here)} - it loads where"
            " both are equal - make it again, or leave the flag out to compile here"
        )
    trees = jax.tree.structure(lowered.args_info), lowered.out_tree
    try:
        return serialize_executable.deserialize_and_load(gzip.decompress(program), *trees)
    except (jax.errors.JaxRuntimeError, ValueError, EOFError, OSError, pickle.PickleError) as error:
        raise UserError(
            f"--compiled_step={path} does not load here: {str(error).splitlines()[0]} - needed are"
            " the devices that it was made for - leave the flag out to compile here"
        ) from None


def _difference(made_for: Mapping[str, object], here: Mapping[str, object]) -> str:
    if made_for["digest"] != here["digest"]:
        return "another step, by the digest of its program"
    old, new = made_for["versions"], here["versions"]
    return ", ".join(
        f"{name} {old.get(name)}, and here is {new.get(name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )
