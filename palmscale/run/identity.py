"""What a run is, as JSON: described, and compared with what a checkpoint stores."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from palmscale.errors import UserError
from palmscale.run import functions, stable_names
from palmscale.run.run import Run

# Entries of identities that earlier versions wrote, by the names of today.
_RENAMED = {"microbatches": "gradient_accumulation_steps"}


def describe(value: Any) -> Any:
    """Returns a frozen value as JSON: a dataclass is its class's stable name and its fields.

    A function, such as a schedule of optax, is its name and the values that it holds.
    """
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: describe(getattr(value, field.name))
            for field in dataclasses.fields(value)
            # Linen adds these to every module; they say where it sits in another.
            if field.name not in ("parent", "name") or not hasattr(value, "apply")
        }
        return {"class": stable_names.name_of(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not functions.is_transformation(value):
        return [describe(item) for item in value]
    return functions.describe_opaque(value, describe)


def identity(run: Run, digests: Mapping[str, str]) -> dict[str, Any]:
    """Returns what must stay the same for a run to go on: names to JSON values.

    `digests` are those of the caches, by the names that `Data.parts` gives. The mesh, hosts,
    periods, number of steps and reports may change between two starts.
    """
    data: dict[str, Any] = {"digest": digests.get("", dict(digests)), "seed": run.data.seed}
    if run.data.components:
        data["weight"] = {part.name: part.weights for part in run.data.components}
    training = run.training
    parts = {
        "model": run.model,
        "optimizer": run.optimizer,
        "batch_schedule": training.batch_schedule,
        "seed": training.seed,
        "skip_rows": training.skip_rows,
        "z_loss": training.z_loss,
        "loss_chunk_length": training.loss_chunk_length,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "data": data,
    }
    if run.trainable:  # identities that were stored earlier do not have it
        parts["trainable"] = run.trainable
    return {name: describe(value) for name, value in parts.items()}


def check_same_run(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    allow_changes: tuple[str, ...],
    *,
    steps: tuple[int | None, int] = (None, 0),
) -> dict[str, tuple[Any, Any]]:
    """Returns the changes between two identities that `allow_changes` names.

    `steps` is `Training.steps` of the old run, if known, and of the new one. A schedule that
    depends on it has an error message of its own.

    Raises:
        UserError: any other difference; all are listed.
    """
    allowed = [_RENAMED.get(name, name) for name in allow_changes]
    changed = changes(_current(dict(old)), _current(dict(new)))
    refused = {
        name: values
        for name, values in changed.items()
        if not any(name == one or name.startswith(f"{one}.") for one in allowed)
    }
    if refused:
        listing = ", ".join(f"{name}: {a!r} -> {b!r}" for name, (a, b) in refused.items())
        if all(_follows_steps(name, values, steps) for name, values in refused.items()):
            raise UserError(
                f"the learning rate schedule of the run in the workdir was made for {steps[0]}"
                f" steps, and Training.steps={steps[1]} changes it ({listing}); keep the number of"
                " steps or, to continue on the new schedule, set"
                f" Run.allow_changes={tuple(refused)}."
            )
        raise UserError(
            f"the workdir holds another run ({listing}); use another workdir, undo the change or,"
            f" to allow it, set Run.allow_changes={tuple(refused)}."
        )
    return changed


def _follows_steps(name: str, values: tuple[Any, Any], steps: tuple[int | None, int]) -> bool:
    """Returns whether a change of the optimizer is only that of `Training.steps`."""
    return name.startswith("optimizer.") and values == steps


def changes(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Returns the entries in which two JSON values differ: dotted name to (old, new)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(old.keys() | new.keys()):
            found |= changes(old.get(key), new.get(key), f"{prefix}{key}.")
        return found
    if _are_alike(old, new):
        items = enumerate(zip(old, new, strict=True))
        return {k: v for n, pair in items for k, v in changes(*pair, f"{prefix}{n}.").items()}
    return {} if old == new else {prefix.removesuffix("."): (old, new)}


def _are_alike(old: Any, new: Any) -> bool:
    """Returns whether two values are lists of equally many objects, to be compared one by one."""
    lists = all(isinstance(value, (list, tuple)) for value in (old, new))
    return lists and len(old) == len(new) and any(isinstance(x, Mapping) for x in (*old, *new))


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Returns the leaves of a JSON value by their dotted names."""
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in flat(inner, f"{name}.{key}")]
    return [(name.removeprefix("."), value)]


def _current(stored: Any) -> Any:
    """Returns a stored identity with the names of today; newer fields have their defaults."""
    if isinstance(stored, Mapping):
        renamed = {
            _RENAMED.get(key, key): stable_names.current(value)
            if key == "class" and isinstance(value, str)
            else _current(value)
            for key, value in stored.items()
        }
        return _defaults(renamed.get("class")) | renamed
    return [_current(item) for item in stored] if isinstance(stored, (list, tuple)) else stored


def _defaults(name: Any) -> dict[str, Any]:
    if name not in stable_names.MODULES:
        return {}
    kind = stable_names.find(name)
    if not dataclasses.is_dataclass(kind):
        return {}
    return {
        field.name: describe(field.default)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING and field.name not in ("parent", "name")
    }
