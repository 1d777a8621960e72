"""A weight with a low-rank adapter (LoRA, Hu et al. 2021, arXiv:2106.09685), never added up."""

from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

PARTS = ("down", "up")  # of an adapter


@struct.dataclass
class Adapted:
    """The weight `kernel + scale * down up`, held in its three parts.

    A product with it is `x kernel + scale * ((x down) up)`: no sum of the size of the kernel
    exists. A loop over stacked layers, [N, ...] each, takes one layer's parts at a time.

    Attributes:
        kernel: the base's weight; in generation it may be quantized, a `qwix.QArray`.
        down: the dims that a product sums over, in the kernel's order, and the rank.
        up: the rank, and the kernel's other dims.
        scale: the factor of the adapter.
        summed: the dims of the kernel that a product sums over, from its last (-1).
    """

    kernel: Any
    down: jax.Array
    up: jax.Array
    scale: float = struct.field(pytree_node=False)
    summed: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's."""
        return self.kernel.shape

    @property
    def dtype(self) -> jax.typing.DTypeLike:
        """The adapter's."""
        return self.down.dtype

    @property
    def stack_dims(self) -> int:
        """The number of dims before those of one weight: 1 if layers are stacked, or 0."""
        return self.down.ndim - 1 - len(self.summed)

    def astype(self, dtype: jax.typing.DTypeLike) -> Self:
        """Returns the same with each part as `dtype`; a quantized kernel stays as it is."""
        is_quantized = hasattr(self.kernel, "qvalue")
        return self.replace(
            kernel=self.kernel if is_quantized else self.kernel.astype(dtype),
            down=self.down.astype(dtype),
            up=self.up.astype(dtype),
        )

    def reshape(self, *shape: int) -> Self:
        """Returns the weight with the dims before its last, which a product sums over, merged."""
        rank = self.down.shape[-1]
        return self.replace(
            kernel=self.kernel.reshape(shape), down=self.down.reshape(-1, rank), summed=(-2,)
        )

    def change(self) -> jax.Array:
        """Returns what the adapter adds to the kernel, `scale * down up`, in its shape."""
        summed, others = split_dims(_LETTERS[: len(self.shape) - self.stack_dims], self.summed)
        spec = f"...{summed}R,...R{others}->...{_LETTERS[: len(summed + others)]}"
        product = jnp.einsum(spec, self.down, self.up, preferred_element_type=jnp.float32)
        return self.scale * product


_LETTERS = "abcdefgh"


def is_adapted(leaf: Any) -> bool:
    """Returns whether a leaf of a model's variables is a weight with an adapter."""
    return isinstance(leaf, Adapted)


def split_dims(letters: str, summed: tuple[int, ...]) -> tuple[str, str]:
    """Returns the letters of the dims that a product sums over, and those of the others."""
    chosen = {dim % len(letters) for dim in summed}
    parts = ["".join(x for d, x in enumerate(letters) if (d in chosen) == c) for c in (True, False)]
    return parts[0], parts[1]
