"""Plans as JSON for programs (`plan.json`), and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from palmscale.plan.plans import Plan, Plans
from palmscale.plan.verdict import CollectiveUse, DoesNotFit, Fits

PREDICTION = "predicted from the program, not measured on a TPU; see docs/planning_backtest.md"


def plans_to_json(plans: Plans) -> dict[str, Any]:
    """Returns the plans of a run, as `plan.json` holds them."""
    return {
        "versions": plans.versions,
        "run": plans.run,
        "plans": [to_json(plan) for plan in plans.plans],
    }


def plans_from_json(value: Mapping[str, Any]) -> Plans:
    """Returns what `plans_to_json` wrote."""
    plans = tuple(map(from_json, value["plans"]))
    return Plans(versions=dict(value["versions"]), run=value["run"], plans=plans)


def to_json(plan: Plan) -> dict[str, Any]:
    """Returns everything that a plan says, as JSON values."""
    value = verdict_to_json(plan.verdict)
    value["tokens_to_train"] = plan.tokens_to_train
    value["dollars_per_chip_hour"] = plan.dollars_per_chip_hour
    if isinstance(plan.verdict, Fits):
        value["collective_bytes"] = bytes_by_kind(plan.verdict.collectives)
        if (prediction := plan.verdict.prediction) is not None:
            value["prediction"]["label"] = PREDICTION
            for bound in ("lower_bound", "upper_bound"):
                cost = plan.cost(getattr(prediction, bound))
                value["prediction"][bound] |= dataclasses.asdict(cost)
    return value


def from_json(value: Mapping[str, Any]) -> Plan:
    """Returns what `to_json` wrote.

    Raises:
        KeyError: an entry is missing.
    """
    return Plan(
        verdict=verdict_from_json(value),
        tokens_to_train=value["tokens_to_train"],
        dollars_per_chip_hour=value["dollars_per_chip_hour"],
    )


def verdict_to_json(verdict: Fits | DoesNotFit) -> dict[str, Any]:
    """Returns a verdict as JSON values."""
    return {"fits": verdict.fits, **dataclasses.asdict(verdict)}


def verdict_from_json(value: Mapping[str, Any]) -> Fits | DoesNotFit:
    """Returns what `verdict_to_json` wrote.

    Raises:
        KeyError: an entry is missing.
    """
    return _build(Fits if value["fits"] else DoesNotFit, value)


def bytes_by_kind(collectives: Sequence[CollectiveUse]) -> dict[str, int]:
    """Returns the bytes a chip and step of collectives, by kind, axis and whether they wait."""
    total: dict[str, int] = {}
    for one in collectives:
        how = "asynchronous" if one.asynchronous else "synchronous"
        key = f"{one.kind} over {one.axis}, {how}"
        total[key] = total.get(key, 0) + one.bytes_per_step
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _build(kind: Any, value: Any) -> Any:
    """Returns a JSON value as a type: a dataclass, a tuple or dict of one, or the value itself."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: _build(hints[name], value[name]) for name in names})
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType:
            return None if value is None else _build(arguments[0], value)
        case origin if origin is tuple:
            return tuple(_build(arguments[0], item) for item in value)
        case origin if origin is dict:
            return {key: _build(arguments[1], item) for key, item in value.items()}
    return value
