"""The compiled train step: compiled before its first use and identified by a digest."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from palmscale.data.stream import Batch
from palmscale.errors import UserError
from palmscale.train.state import StatePlan, TrainState
from palmscale.train.step import Metrics, TrainStep

Load = Callable[[jax.stages.Lowered, str], jax.stages.Compiled]


class CompiledStep:
    """The train step, compiled once per batch shape; it donates its state.

    Hosts compile at different speeds, and a collective does not wait long for the slowest. So
    `prepare` compiles the first shape, and the hosts synchronize before the first call.

    Args:
        step: the step to compile.
        plan: the plan of the state; its devices are the compilation target and need not exist here.
        tpu_options: XLA options by name, used only for TPUs: no other compiler knows them.
    """

    def __init__(
        self,
        step: TrainStep,
        plan: StatePlan,
        tpu_options: Mapping[str, str | int | float | bool] = {},
    ) -> None:
        self._jitted = jax.jit(step, donate_argnums=0, out_shardings=(plan.shardings, None))
        self._abstract_state = plan.abstract
        on_tpu = next(iter(plan.shardings.step.device_set)).platform == "tpu"
        self._options = dict(tpu_options) if on_tpu else {}
        self._by_shape: dict[Any, Any] = {}

    def trace(self, batch: Batch) -> jax.stages.Traced:
        """Returns the step traced for a batch, which may be abstract; no devices are needed."""
        return self._jitted.trace(self._abstract_state, jax.tree.map(_abstract, batch))

    def lower(self, batch: Batch) -> jax.stages.Lowered:
        """Returns the step lowered for a batch, which may be abstract; no devices are needed."""
        return self.trace(batch).lower()

    def prepare(self, batch: Batch, load: Load | None = None) -> str:
        """Compiles the step for a batch, which may be abstract, and returns the program's digest.

        With `load`, the compiled step is `load(lowered step, digest)` instead.
        """
        lowered = self.lower(batch)
        program = digest(lowered)
        compiled = self.compile(lowered) if load is None else load(lowered, program)
        self._by_shape[_shape(batch)] = compiled
        return program

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiles a step returned by `lower`.

        Raises:
            UserError: the compiler does not know one of the options.
        """
        try:
            return lowered.compile(compiler_options=self._options or None)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" in str(error):
                raise UserError(
                    f"Layout.tpu_options={self._options}: {str(error).splitlines()[0]}; remove the"
                    " options that this version of libtpu does not know."
                ) from None
            raise

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Runs the step, and compiles it first if the batch shape is new."""
        if _shape(batch) not in self._by_shape:
            self.prepare(batch)
        return self._by_shape[_shape(batch)](state, batch)


def digest(lowered: jax.stages.Lowered) -> str:
    """Returns the SHA-256 of a lowered program's text; equal programs have equal digests."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _shape(batch: Batch) -> Any:
    return tuple(
        None if field is None else (field.shape, field.dtype.name)
        for field in (batch.target_BL, batch.segment_BL, batch.position_BL, batch.weight_BL)
    )
