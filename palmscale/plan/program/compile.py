"""Compiles a lowered step for absent devices, and reads what the compiler reports."""

import dataclasses
import re
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from palmscale.errors import DoesNotFitError
from palmscale.plan.hardware.chips import GIB

_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled step.

    Attributes:
        text: the optimized, scheduled program.
        peak_bytes: peak memory of a chip, which the compiler accepted.
        argument_bytes: a chip: state and batch.
        output_bytes: a chip, aliased ones included.
        aliased_bytes: of these, in the memory of donated arguments.
        temporary_bytes: a chip, in memory of their own.
        program_bytes: the code itself.
        cpu_seconds: that the compiler took.
    """

    text: str
    peak_bytes: int
    argument_bytes: int
    output_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    program_bytes: int
    cpu_seconds: float
    executable: jax.stages.Compiled


def compile_step(compile: Callable[[], jax.stages.Compiled]) -> Compiled:
    """Returns the compiled program, and what the compiler reports of it.

    Raises:
        DoesNotFitError: it needs more memory than a chip has; with both numbers.
    """
    began = time.process_time()
    try:
        executable = compile()
    except jax.errors.JaxRuntimeError as error:
        found = _OUT_OF_MEMORY.search(str(error))
        if found is None:
            raise
        needed, offered = (
            float(n) * _UNITS[u] for n, u in (found.groups()[:2], found.groups()[2:])
        )
        raise DoesNotFitError(needed_bytes=int(needed), offered_bytes=int(offered)) from None
    memory = executable.memory_analysis()
    return Compiled(
        text=executable.as_text(),
        peak_bytes=memory.peak_memory_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        cpu_seconds=time.process_time() - began,
        executable=executable,
    )


def offered_bytes(device: jax.Device) -> int:
    """Returns the memory that the compiler lets a program have on a device.

    It is less than what the chip has. The compiler states it only when it refuses a program, so
    one that is too large for any chip is compiled, which takes a tenth of a second.

    Raises:
        RuntimeError: the compiler accepts that program.
    """
    huge = jax.ShapeDtypeStruct(
        (2**8, GIB), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device)
    )
    try:
        compile_step(jax.jit(lambda x: jnp.sort(x, axis=0).sum()).lower(huge).compile)
    except DoesNotFitError as error:
        return error.offered_bytes
    raise RuntimeError(f"the compiler accepts a program of 1 TiB on {device}")
