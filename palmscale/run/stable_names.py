"""The short names by which stored files know palmscale's classes, wherever their code lies.

Checkpoints and `config.gin` say `PaLM`, not `palmscale.model.palm:PaLM`: a file may move, and the
runs of before still resume. A user's own class is known by `module:name`.
"""

import importlib
from typing import Any

from palmscale.errors import UserError

# Every class and function that a gin file or a checkpoint may name. Names are never reused.
MODULES: dict[str, str] = {
    "PaLM": "palmscale.model.palm",
    "Lora": "palmscale.model.lora",
    "padded_tokens": "palmscale.model.sizes",
    "base_model": "palmscale.run.base",
    "base_vocabulary": "palmscale.run.base",
    "base_sequence_length": "palmscale.run.base",
    "Adafactor": "palmscale.optim.build",
    "AdamW": "palmscale.optim.build",
    "InverseSqrt": "palmscale.optim.schedules",
    "Constant": "palmscale.optim.schedules",
    "WarmupCosine": "palmscale.optim.schedules",
    "Run": "palmscale.run.run",
    "Training": "palmscale.train.training",
    "SpikePolicy": "palmscale.train.spike",
    "BatchSchedule": "palmscale.data.stream",
    "Data": "palmscale.data.dataset",
    "Component": "palmscale.data.dataset",
    "Corpus": "palmscale.data.sources.corpus",
    "one_of": "palmscale.data.sources.corpus",
    "TextFiles": "palmscale.data.sources.text_files",
    "SourceDirectories": "palmscale.data.sources.text_files",
    "StandardLibrary": "palmscale.data.sources.text_files",
    "Jsonl": "palmscale.data.sources.jsonl_parquet",
    "Pile": "palmscale.data.sources.jsonl_parquet",
    "Parquet": "palmscale.data.sources.jsonl_parquet",
    "HuggingFace": "palmscale.data.sources.huggingface",
    "SeqioTask": "palmscale.data.sources.seqio_tasks",
    "Tfds": "palmscale.data.sources.seqio_tasks",
    "Layout": "palmscale.partition.layout",
    "MeshSpec": "palmscale.partition.mesh",
    "Saving": "palmscale.checkpoint.saving",
    "KeepPolicy": "palmscale.checkpoint.policy",
    "Retries": "palmscale.checkpoint.policy",
    "WarmStart": "palmscale.checkpoint.warm_start",
    "Reporting": "palmscale.observe.reporting",
    "Deadlines": "palmscale.cluster.join",
    "LmEval": "palmscale.evals.in_training",
}


def name_of(kind: type) -> str:
    """Returns the stable name of a class: `PaLM`, or `module:name` of a user's own."""
    if MODULES.get(kind.__qualname__) == kind.__module__:
        return kind.__qualname__
    return f"{kind.__module__}:{kind.__qualname__}"


def gin_name(target: Any) -> str:
    """Returns what a gin file calls a class or function: `PaLM`, or `module.name` of a user's."""
    return name_of(target).replace(":", ".")


def current(name: str) -> str:
    """Returns the stable name of what a file may know by the path it had in an earlier version."""
    module, _, short = name.rpartition(":")
    is_ours = module.partition(".")[0] == "palmscale" and short in MODULES
    return short if is_ours else name


def find(name: str) -> Any:
    """Returns palmscale's own class or function of a name, of this or an earlier version.

    Raises:
        UserError: palmscale has none of that name.
    """
    name = current(name)
    if name not in MODULES:
        raise UserError(
            f"palmscale has no class {name!r}; expected one of {', '.join(sorted(MODULES))}."
        )
    return getattr(importlib.import_module(MODULES[name]), name)
