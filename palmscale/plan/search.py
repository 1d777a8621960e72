"""Other ways to lay a run out, and which of them are worth compiling.

A choice is a mesh, what the backward pass finds saved, microbatches, loss chunks, and where the
residual stream and the vocabulary lie. Arithmetic alone ranks choices here: it leaves out what
cannot fit and what is surely slower. Its numbers are never shown as a prediction; that is made
from the compiled program. What arithmetic cannot tell, the compiler's options and the use of the
hosts' memory, is varied afterwards, on the best that was compiled.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from palmscale import axes
from palmscale.plan.chips import Chip

Remat = str | tuple[str, ...]

# From computing everything anew to nothing; each saves more than the one before.
REMATS: tuple[Remat, ...] = (
    "full",
    ("query", "key", "value", "attention"),
    ("norm", "query", "key", "value", "attention"),
    ("query", "key", "value", "attention", "up"),
    ("query", "key", "value", "attention", "gate", "up"),
    ("norm", "query", "key", "value", "attention", "gate", "up"),
)
RESIDUALS = ("embed", "sequence", "replicated")
VOCABULARIES = ("model", "data")
_LOSS_CHUNKS = (256, 512, 1024, 2048)
_MICROBATCHES = (1, 2, 4, 8)
_REPLICAS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to lay a run out.

    Attributes:
        replicas: copies of the model in a slice, each over data x model devices.
        data: size of the mesh axis, a replica.
        model: likewise.
        microbatches: parts of a batch, one after another.
        loss_chunk_length: positions whose logits exist at a time.
        remat: what the backward pass finds saved.
        residual: what the residual stream is split along over `model`.
        vocabulary: the mesh axis that splits the token table's rows.
        options: the compiler's, as (name, value).
    """

    replicas: int = 1
    data: int
    model: int
    microbatches: int
    loss_chunk_length: int
    remat: Remat
    residual: str = "embed"
    vocabulary: str = "model"
    options: tuple[tuple[str, Any], ...] = ()

    def settings(self, base: "Choice", slices: int = 1) -> dict[str, str]:
        """Returns the gin macros in which it differs from `base`, as gin writes them."""
        overrides: dict[str, str | None] = {}
        if self.residual != "embed":
            overrides[axes.ACT_EMBED] = None
            overrides |= {axes.ACT_LENGTH: axes.MODEL} if self.residual == "sequence" else {}
        if self.vocabulary == "data":
            overrides |= {axes.VOCAB: axes.DATA, axes.VOCAB_EMBED: axes.MODEL}
        found = {
            "REPLICAS": (slices * self.replicas, slices * base.replicas),
            "DATA": (self.data, base.data),
            "MODEL_PARALLEL": (self.model, base.model),
            "MICROBATCHES": (self.microbatches, base.microbatches),
            "LOSS_CHUNK_LENGTH": (self.loss_chunk_length, base.loss_chunk_length),
            "REMAT": (self.remat, base.remat),
            "TPU_COMPILER_OPTIONS": (dict(self.options), dict(base.options)),
        }
        written = {name: repr(new) for name, (new, old) in found.items() if new != old}
        if (self.residual, self.vocabulary) != (base.residual, base.vocabulary):
            written["RULE_OVERRIDES"] = repr(overrides)
        return written

    def distance(self, other: "Choice") -> int:
        """Returns in how many settings two choices differ; a mesh is one."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        mesh = ("replicas", "data", "model")
        moved = any(mine[name] != theirs[name] for name in mesh)
        return moved + sum(mine[name] != theirs[name] for name in mine if name not in mesh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """What the arithmetic needs to know of a run.

    Attributes:
        width, heads, head_size, mlp, layers, vocabulary: D, H, K, F, N, V.
        sequences: a step, of all slices.
        stages: of the batch schedule, all of which must divide.
        length: tokens a sequence.
        slices: of `devices` each.
        offered_bytes: that a program may have on a device.
        ways: bytes a second of one device along (replicas, data, model), for a mesh of those sizes.
    """

    width: int
    heads: int
    head_size: int
    mlp: int
    layers: int
    vocabulary: int
    sequences: int
    stages: tuple[int, ...] = ()
    length: int
    slices: int
    devices: int
    chip: Chip
    offered_bytes: int
    ways: Callable[[int, int, int], tuple[float, float, float]]

    @property
    def layer_params(self) -> int:
        """Parameters of one layer."""
        D, H, K, F = self.width, self.heads, self.head_size, self.mlp
        return 2 * D * H * K + 2 * D * K + 3 * D * F

    @property
    def params(self) -> int:
        """Parameters of the model."""
        return self.layers * self.layer_params + self.vocabulary * self.width


def choices(shape: Shape, options: tuple[tuple[str, Any], ...] = ()) -> Iterator[Choice]:
    """Yields every choice whose dims divide, with these options of the compiler."""
    meshes = [
        (replicas, shape.devices // (replicas * model), model)
        for replicas in _REPLICAS
        for model in range(1, shape.devices + 1)
        if shape.devices % (replicas * model) == 0
        and shape.heads % model == 0
        and shape.mlp % model == 0
    ]
    for (replicas, data, model), parts, chunk, remat, residual, vocabulary in itertools.product(
        meshes, _MICROBATCHES, _LOSS_CHUNKS, REMATS, RESIDUALS, VOCABULARIES
    ):
        choice = Choice(
            replicas=replicas,
            data=data,
            model=model,
            microbatches=parts,
            loss_chunk_length=chunk,
            remat=remat,
            residual=residual,
            vocabulary=vocabulary,
            options=options,
        )
        if divides(choice, shape):
            yield choice


def divides(choice: Choice, shape: Shape) -> bool:
    """Returns whether every dim divides over its mesh axis."""
    data, model = choice.data, choice.model
    parts = shape.slices * choice.replicas * data * choice.microbatches
    along = {"embed": shape.width, "sequence": shape.length, "replicated": model}[choice.residual]
    vocabulary = data if choice.vocabulary == "data" else model
    width = model if choice.vocabulary == "data" else data
    return not (
        any(sequences % parts for sequences in (shape.sequences, *shape.stages))
        or shape.width % data
        or along % model
        or shape.vocabulary % math.lcm(vocabulary, model)
        or shape.width % width
        or (model == 1 and (choice.residual, choice.vocabulary) != ("embed", "model"))
        or choice.loss_chunk_length > shape.length
    )


def estimated_bytes(choice: Choice, shape: Shape) -> float:
    """Returns about what a device holds at the fullest moment."""
    split = choice.data * choice.model
    tokens = _tokens(choice, shape)
    # Parameters and two moments in float32, gradients, and parameters in bfloat16.
    state = (12 + 4 + 2 + 4 * (choice.microbatches > 1)) * shape.params / split
    saved = shape.layers * tokens * 2 * sum(_saved(choice, shape).values())
    layer = tokens * 2 * (3 * shape.width + 6 * shape.mlp / choice.model)
    weights = 4 * shape.layer_params / choice.model
    logits = 10 * tokens * choice.loss_chunk_length / shape.length * shape.vocabulary / choice.model
    table = 6 * shape.vocabulary * shape.width / choice.model
    return state + saved + max(layer + weights, logits + table)


def estimated_seconds(choice: Choice, shape: Shape) -> float:
    """Returns about how long a step takes; good for ranking alone."""
    tokens, peak = _tokens(choice, shape), shape.chip.device_peak_flops
    head_pairs = shape.heads * shape.head_size * shape.length  # causal: half of 2 x 2 matmuls
    forward = 2 * tokens * (shape.layer_params + head_pairs) / choice.model
    saved = _saved(choice, shape)
    products = {  # what computing each anew costs
        "query": 2 * tokens * shape.width * shape.heads * shape.head_size / choice.model,
        "attention": 2 * tokens * head_pairs / choice.model,
        "gate": 2 * tokens * shape.width * shape.mlp / choice.model,
        "up": 2 * tokens * shape.width * shape.mlp / choice.model,
    }
    anew = sum(cost for name, cost in products.items() if name not in saved)
    head = 6 * tokens * shape.vocabulary * shape.width / choice.model
    compute = choice.microbatches * (shape.layers * (3 * forward + anew) + head) / peak
    over_replicas, along_data, along_model = shape.ways(choice.replicas, choice.data, choice.model)
    weights = 2 * shape.layer_params / choice.model * (choice.data - 1) / choice.data
    passes = {"embed": 6, "sequence": 6, "replicated": 8}[choice.residual] + ("norm" not in saved)
    activations = 2 * tokens * shape.width * (choice.model - 1) / choice.model
    layers = choice.microbatches * shape.layers
    gathers = layers * 2 * weights / along_data if choice.data > 1 else 0.0
    waits = layers * weights / along_data if choice.data > 1 else 0.0
    waits += layers * passes * activations / along_model if choice.model > 1 else 0.0
    if choice.replicas > 1:  # each sums its shards of the gradients, in bfloat16
        shards = 2 * shape.layer_params / (choice.model * choice.data)
        waits += layers * 2 * shards * (choice.replicas - 1) / choice.replicas / over_replicas
    return max(compute, gathers) + waits


def promising(found: Iterable[Choice], shape: Shape, count: int) -> list[Choice]:
    """Returns the choices to compile: those that seem to fit, the fastest first, no two too alike.

    Of choices that differ in loss chunks alone the arithmetic cannot tell which is faster, so only
    the largest of these that fits is kept.
    """
    room = 0.95 * shape.offered_bytes
    fitting = [one for one in found if estimated_bytes(one, shape) <= room]
    fitting.sort(key=lambda one: (estimated_seconds(one, shape), -one.loss_chunk_length))
    kept: dict[Choice, Choice] = {}
    for one in fitting:
        kept.setdefault(dataclasses.replace(one, loss_chunk_length=1), one)
        if len(kept) == count:
            break
    return list(kept.values())


def remedies(base: Choice, shape: Shape, count: int) -> list[Choice]:
    """Returns near choices that hold less, those with the fewest changes and least time first."""
    held = estimated_bytes(base, shape)
    less = [one for one in choices(shape, base.options) if estimated_bytes(one, shape) < 0.9 * held]
    less.sort(key=lambda one: (one.distance(base), estimated_seconds(one, shape)))
    fitting = [one for one in less if estimated_bytes(one, shape) <= shape.offered_bytes]
    return (fitting or less)[:count]


def _tokens(choice: Choice, shape: Shape) -> float:
    """Of one device and microbatch, as `data`, replicas and slices split them."""
    parts = shape.slices * choice.replicas * choice.data * choice.microbatches
    return shape.sequences * shape.length / parts


def _saved(choice: Choice, shape: Shape) -> dict[str, float]:
    """Returns elements a token and layer that a device saves, by name."""
    heads = shape.heads * shape.head_size / choice.model
    mlp = shape.mlp / choice.model
    sizes = {
        "query": heads,
        "key": shape.head_size,
        "value": shape.head_size,
        "attention": heads,
        "norm": shape.width,
        "gate": mlp,
        "up": mlp,
    }
    by_choice: dict[str, tuple[str, ...]] = {
        "full": (),
        "dots": ("query", "key", "value", "gate", "up"),
        "attention": tuple(sizes),
        "none": tuple(sizes),
    }
    names = by_choice[choice.remat] if isinstance(choice.remat, str) else choice.remat
    residual = shape.width / (1 if choice.residual == "replicated" else choice.model)
    return {"residual": residual, **{name: sizes[name] for name in names if name in sizes}}
