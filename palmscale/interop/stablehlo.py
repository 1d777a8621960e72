"""StableHLO: the logits as a program for CPUs, NVIDIA GPUs and TPUs that needs JAX, not palmscale.

A folder holds the program, which jax.export wrote, the weights, which it takes as arguments, and a
README that says how both are run.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.errors import UserError
from palmscale.interop import tensors as ts
from palmscale.interop.carried_vocabulary import write_vocabulary
from palmscale.interop.check import UNCHECKED, is_too_large, sample_tokens
from palmscale.interop.layouts import ExportLayout, Outgoing
from palmscale.interop.safetensors_file import SINGLE, read_safetensors, write_safetensors
from palmscale.model import interface
from palmscale.trees import nested

PROGRAM, README = "logits.jax_export", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")
_ROUNDING = 0.01  # of the largest logit: a bfloat16 model's may be fused in another way
_TEXT = """# {name}

The logits of a language model as a StableHLO program ({platforms}), from step {step} of a run of
palmscale. It needs the packages jax, safetensors and flatbuffers, and a version of jax that is at
most six months older or newer than {jax}.

```python
from jax import export
from safetensors.numpy import load_file

with open("{program}", "rb") as file:
    logits = export.deserialize(file.read())
weights = load_file("{weights}")
# int32 [batch, {length}], any batch. A text begins with {bos} and may be padded at its end: each
# position sees only those before it.
logits_BLV = logits.call(weights, tokens_BL)  # float32 [batch, {length}, {num_tokens}]
```

`vocabulary/` says how the {num_tokens} ids stand for text: {vocabulary}.
"""


def write(outgoing: Outgoing, path: Path) -> None:
    """Writes the folder: the program, its weights, the vocabulary and how they are used.

    Raises:
        UserError: the package flatbuffers is not installed.
    """
    program = _program(outgoing)
    path.mkdir(parents=True)
    (path / PROGRAM).write_bytes(program)
    cast = {name: ts.cast(one, np.dtype(outgoing.dtype)) for name, one in outgoing.params.items()}
    write_safetensors(path / SINGLE, cast)
    write_vocabulary(outgoing.vocabulary, path)
    text = _TEXT.format(
        name=outgoing.origin.get("name", "A model"),
        step=outgoing.origin.get("step", 0),
        platforms=", ".join(PLATFORMS),
        jax=jax.__version__,
        program=PROGRAM,
        weights=SINGLE,
        length=outgoing.context_length,
        bos=outgoing.vocabulary.bos_id,
        num_tokens=_num_tokens(outgoing),
        vocabulary=json.dumps(outgoing.vocabulary.description()),
    )
    (path / README).write_text(text, encoding="utf-8")


def check(outgoing: Outgoing, path: Path) -> str:
    """Compares the program's logits with the model's; see `ExportLayout.check`."""
    from jax import export

    weights = sum(tensor.bytes for tensor in outgoing.params.values())
    logits = 4 * outgoing.context_length * _num_tokens(outgoing)
    if is_too_large(3 * (weights + logits)):
        return UNCHECKED
    tokens_BL = sample_tokens(_num_tokens(outgoing), outgoing.context_length)[None]
    weights = {name: tensor.read() for name, tensor in read_safetensors(path / SINGLE).items()}
    program = export.deserialize((path / PROGRAM).read_bytes())
    found = np.asarray(program.call(weights, tokens_BL))
    params = {name: values.astype(np.float32) for name, values in weights.items()}
    ours = np.asarray(jax.jit(outgoing.model.apply)({"params": nested(params)}, tokens_BL))
    ours = ours[..., : found.shape[-1]]
    worst, most = np.abs(found - ours).max(), _ROUNDING * np.abs(ours).max()
    if not worst <= most:
        raise RuntimeError(
            f"the program's logits differ from the model's by up to {worst:.2g}, and at most"
            f" {most:.1g} is rounding. This export is wrong, which is a bug: please report it."
        )
    length = found.shape[1]
    return (
        f"The program's logits of {length} tokens differ from the model's by at most {worst:.1e}."
    )


def _program(outgoing: Outgoing) -> bytes:
    try:
        import flatbuffers  # noqa: F401 - jax.export serializes with it
    except ImportError:
        raise UserError(
            "StableHLO is written with the package flatbuffers, which is not installed; run"
            ' pip install "palmscale[interop]".'
        ) from None
    from jax import export

    num_tokens = _num_tokens(outgoing)

    def logits(weights: dict[str, jax.Array], tokens_BL: jax.Array) -> jax.Array:
        params = {name: values.astype(jnp.float32) for name, values in weights.items()}
        logits_BLV = outgoing.model.apply({"params": nested(params)}, tokens_BL)
        return logits_BLV[..., :num_tokens]  # the others are padding

    # A length that is not known breaks the loop over queries; texts may be padded.
    (batch,) = export.symbolic_shape("batch")
    tokens_BL = jax.ShapeDtypeStruct((batch, outgoing.context_length), jnp.int32)
    dtype = jnp.dtype(outgoing.dtype)
    weights = {n: jax.ShapeDtypeStruct(t.shape, dtype) for n, t in outgoing.params.items()}
    program = export.export(jax.jit(logits), platforms=PLATFORMS)(weights, tokens_BL)
    return bytes(program.serialize())


def _num_tokens(outgoing: Outgoing) -> Any:
    return interface.num_tokens(outgoing.model) or outgoing.vocabulary.size


EXPORT = ExportLayout(dtypes=("float32", "bfloat16"), write=write, check=check)
