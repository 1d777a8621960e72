"""The train step as the devices run it: compiled before its first use, and known by a digest."""

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
    """The train step, compiled once for each shape of a batch; it donates its state.

    Hosts compile at different speeds, and a collective does not wait long for the last of them: so
    the first shape is compiled by `prepare`, after which they can meet, and not by the first call.

    Args:
        step: to compile.
        plan: of the state; its devices, which need not exist here, are what it is compiled for.
        tpu_options: XLA's options by name, where those are TPUs: no other compiler knows them.
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
        """Returns the step traced for a batch, abstract or not; its devices need not exist."""
        return self._jitted.trace(self._abstract_state, jax.tree.map(_abstract, batch))

    def lower(self, batch: Batch) -> jax.stages.Lowered:
        """Returns the step lowered for a batch, abstract or not; its devices need not exist."""
        return self.trace(batch).lower()

    def prepare(self, batch: Batch, load: Load | None = None) -> str:
        """Compiles for a batch, abstract or not, and returns the digest of the program.

        With `load`, what it returns for the lowered step and its digest is taken as compiled.
        """
        lowered = self.lower(batch)
        program = digest(lowered)
        compiled = self.compile(lowered) if load is None else load(lowered, program)
        self._by_shape[_shape(batch)] = compiled
        return program

    def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiles what `lower` returned.

        Raises:
            UserError: the compiler does not know one of the options.
        """
        try:
            return lowered.compile(compiler_options=self._options or None)
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" in str(error):
                raise UserError(
                    f"TPU_COMPILER_OPTIONS={self._options} - {str(error).splitlines()[0]} - leave"
                    " out what this version of libtpu does not know"
                ) from None
            raise

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Runs the step, having compiled it where the shape is new."""
        if _shape(batch) not in self._by_shape:
            self.prepare(batch)
        return self._by_shape[_shape(batch)](state, batch)


def digest(lowered: jax.stages.Lowered) -> str:
    """Returns the SHA-256 of a lowered program's text; equal programs have equal ones."""
    return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def _abstract(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _shape(batch: Batch) -> Any:
    return tuple(
        None if field is None else (field.shape, field.dtype.name)
        for field in (batch.target_BL, batch.segment_BL, batch.position_BL, batch.weight_BL)
    )
