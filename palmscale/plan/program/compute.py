"""How long a chip computes: as the compiler estimates, and at least.

The compiler's cycles are an estimate, and some measured runs were faster
(docs/planning_backtest.md). No run is faster than its matmuls at the chip's peak.
"""

from collections.abc import Callable

from palmscale.plan.hardware.chips import Chip
from palmscale.plan.program.hlo import Instruction, Program

Seconds = Callable[[Instruction], float]  # of one execution of an instruction
_MATMULS = ("convolution", "dot")


def expected_seconds(clock_hz: float) -> Seconds:
    """Returns seconds by the compiler's cycles."""
    return lambda instruction: instruction.cycles / clock_hz


def least_seconds(program: Program, clock_hz: float, matmul_seconds: float) -> Seconds:
    """Returns seconds by which all matmuls of a step together take no more than `matmul_seconds`.

    What computes no matmul takes the compiler's cycles.

    Args:
        program: scheduled.
        clock_hz: cycles a second.
        matmul_seconds: see `least_matmul_seconds`.
    """
    names: set[str] = set()
    expected = 0.0
    for computation, times in program.executions.items():
        for instruction in program.computations[computation]:
            if instruction.cycles and _has_matmul(program, instruction):
                names.add(instruction.name)
                expected += times * instruction.cycles / clock_hz
    share = min(1.0, matmul_seconds / expected) if expected else 1.0

    def seconds(instruction: Instruction) -> float:
        return instruction.cycles / clock_hz * (share if instruction.name in names else 1.0)

    return seconds


def least_matmul_seconds(chip: Chip, flops: float, weight_bytes: int) -> float:
    """Returns the least time of a device's matmuls: at its peak, and every weight read once."""
    return max(
        flops / chip.device_peak_flops, weight_bytes * chip.devices / chip.hbm_bytes_per_second
    )


def _has_matmul(program: Program, instruction: Instruction) -> bool:
    if instruction.opcode != "fusion":
        return instruction.opcode in _MATMULS
    inside = program.computations.get(instruction.called("calls") or "", ())
    return any(_has_matmul(program, one) for one in inside)
