"""A fingerprint per array, the same on any mesh, which shows whether a restore was exact."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.trees import named_leaves

# The multipliers and shifts of MurmurHash3's 32-bit finalizer (Austin Appleby, public domain).
_MIX_1, _MIX_2 = 0x85EBCA6B, 0xC2B2AE35
# One seed per 32-bit lane and one odd step per dim. Arbitrary, but stored checkpoints depend on it.
_LANE_SEEDS = (0x9E3779B9, 0x7F4A7C15)
_ODD_STEPS = (
    0x9E3779B1,
    0x85EBCA77,
    0xC2B2AE3D,
    0x27D4EB2F,
    0x165667B1,
    0xD3A2646D,
    0xFD7046C5,
    0xB55A4F09,
)


def fingerprint(tree: Any) -> dict[str, str]:
    """Returns the 64-bit fingerprint, as 16 hex digits, of each array in `tree`, by its path.

    Each element's bits are mixed with a number derived from its position, and the results are
    summed modulo 2^32 in two lanes. Integer sums do not depend on their order, so the fingerprint
    does not depend on the mesh, the number of hosts or the layout, and nothing is gathered. The
    mixing is nonlinear: with a plain product, two flipped sign bits would cancel. A change of one
    element is always detected; any other change is missed with a probability of about 2^-64. Shape
    and dtype are not included. Empty arrays have no fingerprint. Waits for the arrays.
    """
    leaves = {path: leaf for path, leaf in named_leaves(tree).items() if np.size(leaf)}
    if not leaves:
        return {}
    meshes = [
        leaf.sharding.mesh
        for leaf in leaves.values()
        if isinstance(getattr(leaf, "sharding", None), jax.sharding.NamedSharding)
    ]
    # Replicated, so that every process can read the result.
    replicated = jax.NamedSharding(meshes[0], jax.P()) if meshes else None
    lanes_N2 = jax.device_get(_compiled(replicated)(list(leaves.values())))
    return {
        path: f"{int(first):08x}{int(second):08x}"
        for path, (first, second) in zip(leaves, lanes_N2, strict=True)
    }


_jitted: dict[Any, Any] = {}


def _compiled(out_sharding: Any) -> Any:
    # jit caches by function, structure and shardings, so each tree structure compiles once.
    if out_sharding not in _jitted:
        _jitted[out_sharding] = jax.jit(_fingerprint_leaves, out_shardings=out_sharding)
    return _jitted[out_sharding]


def _fingerprint_leaves(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_fingerprint_array(jnp.asarray(leaf)) for leaf in leaves])


class BlockFingerprint:
    """The fingerprint of an array of which blocks are added one after another."""

    def __init__(self) -> None:
        self._lanes = np.zeros(2, np.uint32)

    def add(self, block: np.ndarray, start: tuple[int, ...]) -> None:
        """Adds a block whose first element is the array's at the position `start`."""
        self._lanes += np.asarray(_fingerprint_block(block, start))  # wraps modulo 2^32

    @property
    def text(self) -> str:
        """As `fingerprint` returns it."""
        first, second = self._lanes.tolist()
        return f"{first:08x}{second:08x}"


@jax.jit
def _fingerprint_block(block: jax.Array, start: tuple[jax.Array, ...]) -> jax.Array:
    return _fingerprint_array(block, start)


def _fingerprint_array(array: jax.Array, start: tuple[jax.Array, ...] | None = None) -> jax.Array:
    bits = _bits(array)
    if bits.ndim > len(_ODD_STEPS):
        raise ValueError(
            f"the array has {bits.ndim} dims; a fingerprint supports at most {len(_ODD_STEPS)}"
        )
    lanes = []
    for lane, seed in enumerate(_LANE_SEEDS):
        # Wraps modulo 2^32, and the stacked layers of a 540B model have more elements than that.
        # The lanes use different steps, so two positions do not collide in both.
        position = jnp.full(bits.shape, seed, jnp.uint32)
        for dim in range(bits.ndim):
            step = jnp.uint32(_ODD_STEPS[(dim + lane) % len(_ODD_STEPS)])
            index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim)
            if start is not None:
                index += jnp.uint32(start[dim])
            position += index * step
        lanes.append(jnp.sum(_mix(bits ^ _mix(position)), dtype=jnp.uint32))
    return jnp.stack(lanes)


def _bits(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if array.dtype == jnp.int4:
        array = array.astype(jnp.int8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(_MIX_1)
    x = (x ^ (x >> 13)) * jnp.uint32(_MIX_2)
    return x ^ (x >> 16)
