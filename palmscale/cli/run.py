"""A run as gin files describe it: frozen values, and nothing started yet."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from palmscale.checkpoint.policy import KeepPolicy
from palmscale.cli import gin_config
from palmscale.data.pack import CONCATENATE
from palmscale.data.sources import Corpus
from palmscale.data.stream import BatchSchedule
from palmscale.errors import UserError
from palmscale.optim.build import Optimizer
from palmscale.partition.mesh import MeshSpec
from palmscale.partition.rules import MeshAxes
from palmscale.train.loop import Periods


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows to train on.

    Attributes:
        corpus: the text, when the cache is to be found or built.
        sentencepiece_model: a model file; None: bytes.
        sequence_length: tokens a row.
        packing: `concatenate`, for pretraining: documents joined and cut, no padding; `segments`,
            for fine-tuning: whole documents side by side, each on its own.
        seed: of the order of documents and rows.
        cache_directory: where caches are found or built.
        cache: one built cache to open in place of all of the above.
    """

    corpus: Corpus
    sequence_length: int
    seed: int
    packing: str = CONCATENATE
    sentencepiece_model: str | None = None
    cache_directory: str = "~/.cache/palmscale/data"
    cache: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where arrays live.

    Attributes:
        mesh: sizes of the mesh axes.
        rules: name of a table in palmscale.partition.rules.
        overrides: logical axis to mesh axis, over the table.
        simulated_devices: CPU devices to pretend to have; None: the machine's own devices.
    """

    mesh: MeshSpec
    rules: str = "2d"
    overrides: dict[str, MeshAxes] = dataclasses.field(default_factory=dict)
    simulated_devices: int | None = None


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
        reporting: writers and samples.
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
    reporting: Reporting = Reporting()
    allow_changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train_steps < 1 or self.microbatches < 1 or self.loss_chunk_length < 1:
            raise UserError(
                f"TRAIN_STEPS={self.train_steps}, MICROBATCHES={self.microbatches} and "
                f"LOSS_CHUNK_LENGTH={self.loss_chunk_length} must each be at least 1."
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
        parts = data_parallel * self.microbatches
        for _, sequences in self.batch_schedule.stages:
            if sequences % parts:
                raise UserError(
                    f"BATCH_SCHEDULE has {sequences} sequences, which do not divide over "
                    f"{data_parallel} data-parallel devices x MICROBATCHES={self.microbatches}; "
                    f"use a multiple of {parts}."
                )

    def identity(self, data_digest: str) -> dict[str, Any]:
        """Returns what must stay the same for a run to go on: names to JSON values.

        The mesh, hosts, periods, number of steps and reports may change between two starts.
        """
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "batch_schedule": self.batch_schedule,
            "seed": self.seed,
            "z_loss": self.z_loss,
            "loss_chunk_length": self.loss_chunk_length,
            "microbatches": self.microbatches,
            "data": {"digest": data_digest, "seed": self.data.seed},
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
