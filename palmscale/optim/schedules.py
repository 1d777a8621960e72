"""Learning rate schedules: frozen dataclasses that optax calls.

Every schedule takes `count`, the number of completed updates: 0 at the first step.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSqrt:
    """`peak` for `hold_steps` steps, then peak * sqrt(hold_steps / k) at step k, counted from 1.

    PaLM (section 5) holds a peak of 1e-2 for 10,000 steps, and then follows 1 / sqrt(k).

    Attributes:
        peak: the largest rate.
        hold_steps: steps until the rate begins to fall.
        warmup_steps: of a linear ramp at the start, which the paper does not have.

    Raises:
        UserError: a field is out of range.
    """

    peak: float
    hold_steps: int
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.peak <= 0 or self.hold_steps < 1 or self.warmup_steps < 0:
            raise UserError(f"{self} needs peak > 0, hold_steps >= 1 and warmup_steps >= 0.")

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        k = jnp.asarray(count, jnp.float32) + 1.0
        ramp = jnp.minimum(1.0, k / max(self.warmup_steps, 1))
        return self.peak * ramp * jnp.sqrt(self.hold_steps / jnp.maximum(k, self.hold_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """A constant learning rate; PaLM's finetuning uses 5e-5 (section 6.1.2).

    Attributes:
        value: the rate.

    Raises:
        UserError: `value` is not positive.
    """

    value: float

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise UserError(f"{self} needs value > 0.")

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        return jnp.full(jnp.shape(count), self.value, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """A linear warmup to `peak`, then a half cosine down to `final` at `total_steps`.

    Attributes:
        peak: the largest rate.
        warmup_steps: steps of the linear ramp from 0.
        total_steps: step at which the rate reaches `final`.
        final: the rate at the end.

    Raises:
        UserError: a field is out of range.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.peak <= 0 or not 0 <= self.warmup_steps < self.total_steps:
            raise UserError(f"{self} needs peak > 0 and 0 <= warmup_steps < total_steps.")

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        schedule = optax.warmup_cosine_decay_schedule(
            0.0 if self.warmup_steps else self.peak,
            self.peak,
            self.warmup_steps,
            self.total_steps,
            self.final,
        )
        return jnp.asarray(schedule(jnp.asarray(count)), jnp.float32)
