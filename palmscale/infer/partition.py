"""A model spread over many devices to generate: weights split, tokens and cache on all of them."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from palmscale import axes
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import make_shardings, unbox


@contextlib.contextmanager
def spread(
    boxed_params: Any,
    trained_mesh: Mapping[str, int],
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[Any]:
    """Enters a layout over all devices, and yields the shapes of the parameters with shardings.

    The mesh is that of training where the number of devices allows it: what divided over it then
    divides over it now. A sample is too small to be split, so the data axis splits weights alone.

    Args:
        boxed_params: shapes with their logical axes, as `abstract_params` gives them.
        trained_mesh: size of each mesh axis in training.
        devices: to spread over; None: all that there are.
    """
    devices = jax.devices() if devices is None else devices
    model = math.gcd(len(devices), trained_mesh.get(axes.MODEL, 1))
    rules = layout_rules("2d", {axes.BATCH: None, axes.ACT_EMBED: None})
    data = math.gcd(len(devices) // model, trained_mesh.get(axes.DATA, 1))
    copies = len(devices) // (data * model)
    mesh = make_mesh(MeshSpec(data=data, model=model, replicas=copies), devices)
    with layout(mesh, rules):
        shardings = make_shardings(boxed_params, mesh, rules)
        yield jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            unbox(boxed_params),
            shardings,
        )


def parameter_bytes(params: Any) -> int:
    """Returns the bytes of all parameters, abstract or not."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
