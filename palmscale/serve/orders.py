"""What the engine is asked to do, also as text for the other processes of a job."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from palmscale.infer.request import Guide, Request
from palmscale.infer.sampling import Sampling
from palmscale.serve.guides import Form


@dataclasses.dataclass(frozen=True)
class Submit:
    """Begin a request.

    Attributes:
        ticket: by which its outputs are known.
        request: with a guide where there is a form.
        form: that the guide was made of.
    """

    ticket: int
    request: Request
    form: Form | None = None


@dataclasses.dataclass(frozen=True)
class Cancel:
    """Give a request up."""

    ticket: int


@dataclasses.dataclass(frozen=True)
class End:
    """Do nothing more."""


Order = Submit | Cancel | End


def written(orders: Sequence[Order]) -> str:
    """Returns orders as text."""
    return json.dumps([_fields(order) for order in orders])


def read(text: str, guide: Callable[[Form | None], Guide | None]) -> list[Order]:
    """Returns the orders that `written` wrote; `guide` makes the guide of each form."""
    return [_order(fields, guide) for fields in json.loads(text)]


def _fields(order: Order) -> dict[str, Any]:
    if isinstance(order, End):
        return {}
    if isinstance(order, Cancel):
        return {"ticket": order.ticket}
    request = {field.name: getattr(order.request, field.name) for field in _REQUEST}
    request |= {
        "prompt": np.asarray(order.request.prompt).tolist(),
        "sampling": dataclasses.asdict(order.request.sampling),
        "stop_ids": sorted(order.request.stop_ids),
    }
    form = order.form and dataclasses.asdict(order.form)
    return {"ticket": order.ticket, "request": request, "form": form}


_REQUEST = [field for field in dataclasses.fields(Request) if field.name != "guide"]


def _order(fields: dict[str, Any], guide: Callable[[Form | None], Guide | None]) -> Order:
    if not fields:
        return End()
    if "request" not in fields:
        return Cancel(fields["ticket"])
    form = Form(**fields["form"]) if fields["form"] else None
    request, sampling = fields["request"], fields["request"]["sampling"]
    bias = tuple((token_id, value) for token_id, value in sampling["logit_bias"])
    request |= {
        "prompt": np.asarray(request["prompt"], np.int32),
        "sampling": Sampling(**sampling | {"logit_bias": bias}),
        "stop_ids": frozenset(request["stop_ids"]),
    }
    return Submit(fields["ticket"], Request(**request, guide=guide(form)), form)
