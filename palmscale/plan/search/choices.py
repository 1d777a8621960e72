"""The ways to lay a run out: a mesh, what is saved, how work is cut, where things lie, options."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from palmscale import axes
from palmscale.model.remat import Remat
from palmscale.plan.hardware.chips import Chip
from palmscale.run.run import Run

# From recomputing everything to recomputing nothing; each saves more than the one before.
REMATS: tuple[Remat, ...] = (
    "full",
    ("query", "key", "value", "attention"),
    ("norm", "query", "key", "value", "attention"),
    ("query", "key", "value", "attention", "up"),
    ("query", "key", "value", "attention", "gate", "up"),
    ("norm", "query", "key", "value", "attention", "gate", "up"),
)
# The same with host memory, for chips that are short of their own.
HOST_REMATS: tuple[Remat, ...] = (
    ("query@host", "key", "value", "attention@host"),
    ("query", "key", "value", "attention", "gate@host", "up@host"),
)
# What XLA does not do by itself on every TPU. Ahead: weights are gathered before they are used, and
# no large matmul becomes a loop that gathers as it goes. Fused: collectives run within matmuls.
_AHEAD = {
    "xla_enable_async_all_gather": True,
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 100_000,
}
_FUSED = {
    "xla_tpu_enable_async_collective_fusion": True,
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": True,
    "xla_tpu_enable_async_collective_fusion_multiple_steps": True,
    "xla_tpu_overlap_compute_collective_tc": True,
}
OPTIONS: tuple[Mapping[str, Any], ...] = ({}, _AHEAD, _AHEAD | _FUSED)
RESIDUALS = ("embed", "sequence", "replicated")
VOCABULARIES = ("model", "data")
_LOSS_CHUNKS = (256, 512, 1024, 2048)
_ACCUMULATION_STEPS = (1, 2, 4, 8)
_REPLICAS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to lay a run out.

    Attributes:
        replicas: of the model in a slice, each over data x model devices.
        data: size of the mesh axis within a replica.
        model: likewise.
        gradient_accumulation_steps: parts of a batch whose gradients are summed one by one.
        loss_chunk_length: positions whose logits exist at a time.
        remat: what the backward pass finds saved.
        residual: what the residual stream is split along over `model`.
        vocabulary: the mesh axis that splits the token table's rows.
        options: the compiler's, as (name, value).
    """

    replicas: int = 1
    data: int
    model: int
    gradient_accumulation_steps: int
    loss_chunk_length: int
    remat: Remat
    residual: str = "embed"
    vocabulary: str = "model"
    options: tuple[tuple[str, Any], ...] = ()

    def changes(self, run: Run, base: "Choice", slices: int = 1) -> dict[str, Any]:
        """Returns the fields that make `run`, whose choice is `base`, a run of this choice.

        Their names are those of classes and fields: `MeshSpec.data`, `PaLM.remat`.
        """
        overrides: dict[str, str | None] = {}
        if self.residual != "embed":
            overrides[axes.ACT_EMBED] = None
            overrides |= {axes.ACT_LENGTH: axes.MODEL} if self.residual == "sequence" else {}
        if self.vocabulary == "data":
            overrides |= {axes.VOCAB: axes.DATA, axes.VOCAB_EMBED: axes.MODEL}
        found = {
            "MeshSpec.replicas": (slices * self.replicas, slices * base.replicas),
            "MeshSpec.data": (self.data, base.data),
            "MeshSpec.model": (self.model, base.model),
            "Training.gradient_accumulation_steps": (
                self.gradient_accumulation_steps,
                base.gradient_accumulation_steps,
            ),
            "Training.loss_chunk_length": (self.loss_chunk_length, base.loss_chunk_length),
            f"{type(run.model).__name__}.remat": (self.remat, base.remat),
            "Layout.tpu_options": (dict(self.options), dict(base.options)),
        }
        changed = {name: new for name, (new, old) in found.items() if new != old}
        if (self.residual, self.vocabulary) != (base.residual, base.vocabulary):
            changed["Layout.overrides"] = overrides
        return changed

    def apply(self, run: Run, base: "Choice", slices: int = 1) -> Run:
        """Returns `run`, whose choice is `base`, with this choice."""
        groups: dict[str, dict[str, Any]] = collections.defaultdict(dict)
        for name, value in self.changes(run, base, slices).items():
            group, _, field = name.partition(".")
            groups[group][field] = value
        mesh = dataclasses.replace(run.layout.mesh, **groups["MeshSpec"])
        return dataclasses.replace(
            run,
            model=run.model.clone(**groups[type(run.model).__name__]),
            training=dataclasses.replace(run.training, **groups["Training"]),
            layout=dataclasses.replace(run.layout, mesh=mesh, **groups["Layout"]),
        )

    def distance(self, other: "Choice") -> int:
        """Returns the number of settings in which two choices differ; the mesh counts as one."""
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
        meshes,
        _ACCUMULATION_STEPS,
        _LOSS_CHUNKS,
        REMATS + HOST_REMATS,
        RESIDUALS,
        VOCABULARIES,
    ):
        choice = Choice(
            replicas=replicas,
            data=data,
            model=model,
            gradient_accumulation_steps=parts,
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
    parts = shape.slices * choice.replicas * data * choice.gradient_accumulation_steps
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


def variations(best: Choice) -> list[Choice]:
    """Returns a choice with other options of the compiler, whose effect arithmetic cannot tell."""
    return [
        dataclasses.replace(best, options=tuple(options.items()))
        for options in OPTIONS
        if dict(options) != dict(best.options)
    ]
