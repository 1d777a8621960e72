"""What gin files of earlier versions call by another name, and what it is called now.

User files and the `config.gin` of old workdirs load with a note. Macros keep their old name for one
version.
"""

from collections.abc import Mapping
from typing import Any

_SHOWN = 8  # Longer notes are not read.

# Modules of earlier versions that are gone, and what a gin file could name in them.
MODULES: dict[str, tuple[str, ...]] = {
    "palmscale.cli.run": ("Run", "Data", "Component", "Layout", "Reporting"),
    "palmscale.train.loop": ("Periods",),
    "palmscale.data.sources": ("Corpus",),  # now a package
    "palmscale.data.corpora": ("one_of",),
    "palmscale.data.files": ("TextFiles", "SourceDirectories", "StandardLibrary"),
    "palmscale.data.records": ("Jsonl", "Pile", "Parquet"),
    "palmscale.data.hub": ("HuggingFace",),
    "palmscale.data.tasks": ("SeqioTask", "Tfds"),
}

# Names that palmscale's own gin files imported for the command line: --gin.palm.PaLM.dim=64.
COMMAND_LINE: dict[str, str] = {
    module.rpartition(".")[2]: module
    for module in (
        *MODULES,
        "palmscale.checkpoint.policy",
        "palmscale.checkpoint.warm_start",
        "palmscale.cluster.join",
        "palmscale.data.stream",
        "palmscale.model.palm",
        "palmscale.optim.build",
        "palmscale.optim.schedules",
        "palmscale.partition.mesh",
        "palmscale.train.spike",
    )
}

PARAMETERS: dict[str, str] = {
    "Run.train_steps": "Training.steps",
    "Run.batch_schedule": "Training.batch_schedule",
    "Run.z_loss": "Training.z_loss",
    "Run.seed": "Training.seed",
    "Run.loss_chunk_length": "Training.loss_chunk_length",
    "Run.microbatches": "Training.gradient_accumulation_steps",
    "Run.held_out_sequences": "Training.eval_sequences",
    "Run.spikes": "Training.spikes",
    "Run.skip_rows": "Training.skip_rows",
    "Run.keep": "Saving.keep",
    "Run.retries": "Saving.retries",
    "Periods.eval_every_steps": "Training.eval_every_steps",
    "Periods.check_every_steps": "Training.check_every_steps",
    "Periods.rates_every_steps": "Training.rates_every_steps",
    "Periods.save_every_steps": "Saving.every_steps",
    "Periods.save_every_seconds": "Saving.every_seconds",
}
# A file that sets these needs them in its run: {"Training": "Run.training", "Saving": ...}.
GROUPS: dict[str, str] = {"Training": "training", "Saving": "saving"}

MACROS: dict[str, str] = {
    "MICROBATCHES": "GRADIENT_ACCUMULATION_STEPS",
    "HELD_OUT_SEQUENCES": "EVAL_SEQUENCES",
}


def module_exists(module: str) -> bool:
    """Returns whether a module can still be imported: `palmscale.data.sources` is a package now."""
    return module not in MODULES or module == "palmscale.data.sources"


def symbol(path: str) -> str | None:
    """Returns the short name of what `path` names in an earlier version, or None."""
    module, _, name = path.rpartition(".")
    return name if name in MODULES.get(module, ()) else None


def is_dropped(parameter: str, value: Any) -> bool:
    """Returns whether a binding says nothing any more: `Run.periods` became part of two groups.

    So is the metric that ranked checkpoints, where it is the default under its former name.
    """
    return parameter == "Run.periods" or (
        parameter == "KeepPolicy.best_metric" and value == "held_out_loss"
    )


def note(renamed: Mapping[str, str]) -> str:
    """Returns what the author of a file should know: its old names, and those of today."""
    pairs = [f"{old} is now {new}" for old, new in renamed.items()]
    if len(pairs) > _SHOWN:
        pairs[_SHOWN:] = [f"and {len(pairs) - _SHOWN} more"]
    return f"names of an earlier version are still accepted: {', '.join(pairs)}."
