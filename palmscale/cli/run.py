"""A run as gin files describe it: frozen values, and nothing started yet."""

import dataclasses
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from palmscale.checkpoint.policy import KeepPolicy, Retries
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.cli import gin_config
from palmscale.cluster.join import Deadlines
from palmscale.data.pack import CONCATENATE
from palmscale.data.sources import Corpus
from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.optim.build import Optimizer
from palmscale.partition.mesh import MeshSpec
from palmscale.partition.rules import MeshAxes
from palmscale.train.loop import Periods
from palmscale.train.spike import SpikePolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A part of a mixture: text, or a built cache, and how much of it.

    Attributes:
        name: in metrics and messages: letters, digits, - and _.
        weight: in proportion to the others' weights; or pairs (first step, weight), the first step
            being 0. A change comes at the row number that the batch schedule gives the step: where
            rows have been skipped, that many rows earlier.
        corpus: the text.
        cache: one built cache to open in place of the text.
    """

    name: str
    weight: float | tuple[tuple[int, float], ...]
    corpus: Corpus | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.name, re.ASCII):
            raise UserError(
                f"a component has the name {self.name!r} - needed are letters, digits, - and _ -"
                " change its Component.name"
            )
        if (self.corpus is None) == (self.cache is None):
            raise UserError(
                f"the component {self.name} has {'neither' if self.corpus is None else 'both'} of"
                " corpus and cache - needed is one of them - bind its Component.corpus"
            )
        steps, weights = zip(*self.weights, strict=True) if self.weights else ((), ())
        if (
            steps[:1] != (0,)
            or any(a >= b for a, b in zip(steps, steps[1:]))
            or any(weight < 0 or not math.isfinite(weight) for weight in weights)
        ):
            raise UserError(
                f"the component {self.name} has weight={self.weight!r} - needed is a number of at"
                " least 0, or pairs (first step, weight) whose first steps begin at 0 and increase"
                " - write for example ((0, 50), (10_000, 25))"
            )

    @property
    def weights(self) -> tuple[tuple[int, float], ...]:
        """Pairs (first step, weight)."""
        return self.weight if isinstance(self.weight, tuple) else ((0, self.weight),)

    def weight_at(self, step: int) -> float:
        """Returns the weight in the batch of `step`."""
        return next(weight for first, weight in reversed(self.weights) if first <= step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows to train on.

    Attributes:
        corpus: the text, when the cache is to be found or built.
        components: a mixture, in place of `corpus`.
        sentencepiece_model: a model file; None: bytes.
        sequence_length: tokens a row.
        packing: `concatenate`, for pretraining: documents joined and cut, no padding; `segments`,
            for fine-tuning: whole documents side by side, each on its own.
        seed: of the order of documents and rows.
        cache_directory: where caches are found or built.
        cache: one built cache to open in place of all of the above.
    """

    corpus: Corpus | None = None
    components: tuple[Component, ...] = ()
    sequence_length: int
    seed: int
    packing: str = CONCATENATE
    sentencepiece_model: str | None = None
    cache_directory: str = "~/.cache/palmscale/data"
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.components:
            if self.corpus is None and self.cache is None:
                raise UserError(
                    "run.Data has no corpus, components or cache - needed is one of them - bind"
                    " run.Data.corpus, or include configs/data/corpus.gin"
                )
            return
        if self.corpus is not None or self.cache is not None:
            raise UserError(
                "run.Data has components and a corpus or cache of its own - a mixture takes the"
                " place of both - write run.Data.corpus = None, and leave CACHE at None"
            )
        names = [component.name for component in self.components]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(
                f"run.Data.components has the name {repeated[0]} more than once - each needs its"
                " own - change one Component.name"
            )
        for step, weights in self.weight_stages():
            if not any(weights.values()):
                raise UserError(
                    f"no component has weight from step {step} on - at least one needs it - make a"
                    " Component.weight positive"
                )

    def parts(self) -> dict[str, "Data"]:
        """Returns each component's data by its name; of a corpus or cache itself, named ""."""
        if not self.components:
            return {"": self}
        return {
            part.name: dataclasses.replace(
                self, components=(), corpus=part.corpus, cache=part.cache
            )
            for part in self.components
        }

    def weight_stages(self) -> list[tuple[int, dict[str, float]]]:
        """Returns pairs (first step, weights by component), one for each change."""
        steps = {step for component in self.components for step, _ in component.weights}
        return [(step, self.weights_at(step)) for step in sorted(steps)]

    def weights_at(self, step: int) -> dict[str, float]:
        """Returns the components' weights in the batch of `step`; 1 for what is no mixture."""
        return {part.name: part.weight_at(step) for part in self.components} or {"": 1.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where arrays live.

    Attributes:
        mesh: sizes of the mesh axes.
        rules: name of a table in palmscale.partition.rules.
        overrides: logical axis to mesh axis, over the table.
        simulated_devices: CPU devices to pretend to have; None: the machine's own devices.
        topology: the slice that the mesh is meant for, such as `v4:4x4x4`. A plan reads it; a run
            takes the devices that there are.
        slices: how many of them.
        tpu_options: options of the step's compiler by name, where the devices are TPUs.
    """

    mesh: MeshSpec
    rules: str = "2d"
    overrides: dict[str, MeshAxes] = dataclasses.field(default_factory=dict)
    simulated_devices: int | None = None
    topology: str | None = None
    slices: int = 1
    tpu_options: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise UserError(f"SLICES={self.slices} must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a run tells besides its progress line and metrics.jsonl.

    Attributes:
        tensorboard: write event files too (extra `tensorboard`).
        wandb_project: log to this Weights & Biases project too (extra `wandb`).
        wandb_mode: `online`, or `offline` to sync later.
        peak_flops_per_device: for MFU; None: the vendor's figure where the device is known.
        sample_prompt: text that the finished model goes on from; None: no sample.
        sample_tokens: tokens of the sample.
    """

    tensorboard: bool = False
    wandb_project: str | None = None
    wandb_mode: str = "online"
    peak_flops_per_device: float | None = None
    sample_prompt: str | None = None
    sample_tokens: int = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
        model: a Linen module that offers `hidden` and `unembed`.
        optimizer: built for the model's parameters.
        data: rows.
        layout: devices and where arrays lie on them.
        batch_schedule: sequences a step.
        train_steps: steps in all.
        z_loss: coefficient of log(Z)^2.
        loss_chunk_length: positions whose logits exist at a time.
        microbatches: parts of a batch whose gradients are summed one after another.
        seed: of the parameters and of dropout.
        held_out_sequences: rows that an evaluation reads; None: all.
        periods: of evaluation and saving.
        keep: which checkpoints to keep.
        retries: what is done about saves that fail.
        warm_start: parameters of another run to begin with; None: the seed's. Once the run has a
            checkpoint of its own, it has no effect.
        reporting: writers and samples.
        deadlines: of the hosts for one another.
        spikes: what is done about a loss that spikes.
        skip_rows: ranges of row numbers to leave out from the start, in order; a rewind adds its
            own.
        allow_changes: entries of the identity (`model.remat`, or `optimizer`) in which this run
            may differ from the checkpoint that it resumes.
    """

    model: nn.Module
    optimizer: Optimizer
    data: Data
    layout: Layout
    batch_schedule: BatchSchedule
    train_steps: int
    z_loss: float
    seed: int
    periods: Periods
    loss_chunk_length: int = 512
    microbatches: int = 1
    held_out_sequences: int | None = None
    keep: KeepPolicy = KeepPolicy()
    retries: Retries = Retries()
    warm_start: WarmStart | None = None
    reporting: Reporting = Reporting()
    deadlines: Deadlines = Deadlines()
    spikes: SpikePolicy = SpikePolicy()
    skip_rows: tuple[tuple[int, int], ...] = ()
    allow_changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train_steps < 1 or self.microbatches < 1 or self.loss_chunk_length < 1:
            raise UserError(
                f"TRAIN_STEPS={self.train_steps}, MICROBATCHES={self.microbatches} and "
                f"LOSS_CHUNK_LENGTH={self.loss_chunk_length} must each be at least 1."
            )
        edges = [edge for span in self.skip_rows for edge in span]
        if any(a >= b for a, b in zip(edges, edges[1:])) or any(edge < 0 for edge in edges):
            raise UserError(
                f"SKIP_ROWS={self.skip_rows} - needed are ranges (first, end) of row numbers, in"
                " order and apart - write for example ((4800, 9600),)"
            )
        for method in ("hidden", "unembed"):
            if not hasattr(self.model, method):
                raise UserError(
                    f"{type(self.model).__name__} offers no `{method}`; a module to train needs "
                    "hidden(tokens_BL) -> x_BLD and unembed(x_BLD) -> logits_BLV."
                )

    def check_batches(self, data_parallel: int) -> None:
        """Checks that every batch divides over that many groups of devices and the microbatches.

        Raises:
            UserError: one does not.
        """
        for _, sequences in self.batch_schedule.stages:
            self.check_divides(sequences, data_parallel, "BATCH_SCHEDULE")

    def check_divides(self, sequences: int, data_parallel: int, said_by: str) -> None:
        """Checks that one batch divides over that many groups of devices and the microbatches.

        Raises:
            UserError: it does not; `said_by` is the setting that it comes from.
        """
        parts = data_parallel * self.microbatches
        if sequences % parts:
            raise UserError(
                f"{said_by} has {sequences} sequences, which do not divide over "
                f"{data_parallel} data-parallel devices x MICROBATCHES={self.microbatches}; "
                f"use a multiple of {parts}."
            )

    def identity(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Returns what must stay the same for a run to go on: names to JSON values.

        `digests` are those of the caches, by the names that `Data.parts` gives.
        The mesh, hosts, periods, number of steps and reports may change between two starts.
        """
        data: dict[str, Any] = {"digest": digests.get("", digests), "seed": self.data.seed}
        if self.data.components:
            data["weight"] = {part.name: part.weights for part in self.data.components}
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "batch_schedule": self.batch_schedule,
            "seed": self.seed,
            "skip_rows": self.skip_rows,
            "z_loss": self.z_loss,
            "loss_chunk_length": self.loss_chunk_length,
            "microbatches": self.microbatches,
            "data": data,
        }
        return {name: describe(value) for name, value in parts.items()}


def load_run(gin_files: Sequence[str], bindings: Sequence[str]) -> Run:
    """Returns the run that the gin files and `--gin.` bindings describe; starts nothing."""
    gin_config.load(gin_files, bindings)
    return gin_config.bound_call(Run)


def describe(value: Any) -> Any:
    """Returns a frozen value as JSON: a dataclass is its class and fields, nested."""
    if dataclasses.is_dataclass(value):
        fields = {
            field.name: describe(getattr(value, field.name))
            for field in dataclasses.fields(value)
            # Linen adds these to every module; they say where it sits in another.
            if field.name not in ("parent", "name")
        }
        return {"class": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def rebuild_model(described: Mapping[str, Any]) -> nn.Module:
    """Returns the module that `describe` wrote down.

    Raises:
        UserError: its class cannot be imported here.
    """
    module, _, name = described["class"].partition(":")
    try:
        model_class = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the checkpoint's model is {module}.{name}, which cannot be imported ({error}); "
            "start palmscale where that module can be found."
        ) from None
    return model_class(**{key: value for key, value in described.items() if key != "class"})


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the entries in which two JSON values differ: dotted name to (old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(old.keys() | new.keys()):
            found |= differences(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    return {} if old == new else {prefix.removesuffix("."): (old, new)}


def check_same_run(
    old: Mapping[str, Any], new: Mapping[str, Any], allow_changes: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    """Returns the changes that `allow_changes` names.

    Raises:
        UserError: any other difference, listed.
    """
    changed = differences(dict(old), dict(new))
    refused = {
        name: values
        for name, values in changed.items()
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in allow_changes)
    }
    if refused:
        listing = ", ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in refused.items())
        raise UserError(
            f"the workdir holds another run ({listing}); use another --workdir, undo the change, "
            f'or name it: --gin.ALLOW_CHANGES="{tuple(refused)}".'
        )
    return changed
