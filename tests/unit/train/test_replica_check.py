"""Copies that differ in one bit are found, and named with the devices that hold them."""

import jax
import jax.numpy as jnp
import numpy as np
from eight_devices import facts_on_eight_devices
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.train.replica_check import first_difference


def here(text, decide):
    return decide([text])


def copies_facts():
    """Run with eight devices: what is found in some trees."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    values = np.arange(32, dtype=np.float32).reshape(8, 4)
    sharded = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data", "model")))
    in_part = jax.device_put(values, NamedSharding(mesh, PartitionSpec("data")))
    whole = jax.device_put(values[0], NamedSharding(mesh, PartitionSpec()))
    good = {"scale": whole, "kernel": in_part, "wide": sharded}
    with jax.set_mesh(mesh):  # as in a run
        entered = first_difference(good, here)
    return {
        "entered": entered,
        "good": first_difference(good, here),
        "scale": first_difference(good | {"scale": one_bit_off(whole, 5)}, here),
        "kernel": first_difference(good | {"kernel": one_bit_off(in_part, 3)}, here),
        "no copies": first_difference({"wide": one_bit_off(sharded, 3)}, here),
    }


def one_bit_off(array, device):
    """The array, with the lowest bit of one element flipped on one device."""
    shards = []
    for shard in array.addressable_shards:
        data = np.array(shard.data)
        if shard.device.id == device:
            data.view(np.uint32).flat[1] ^= 1
        shards.append(jax.device_put(jnp.asarray(data), shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


def test_a_copy_that_differs_in_one_bit_is_named_and_equal_ones_are_not():
    facts = facts_on_eight_devices(copies_facts)
    assert facts["good"] is facts["entered"] is facts["no copies"] is None
    assert "scale" in facts["scale"] and "process 0's cpu:5" in facts["scale"]
    assert facts["kernel"].startswith("kernel[2:4, 0:] differs between process 0's cpu:")
