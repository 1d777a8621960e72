"""Copies between a chip's memory and its host's, made by saving `name@host` (model/remat.py)."""

from palmscale.plan.program import hlo
from palmscale.plan.program.hlo import Array, Instruction, Program

TO_HOST, FROM_HOST = "copy to host", "copy from host"
_HOST = "S(5)"  # the memory space, in a layout
_COPIES = ("copy-start", "dynamic-slice-start", "dynamic-update-slice-start")


def host_copy(instruction: Instruction) -> tuple[str, Array] | None:
    """Returns which way an instruction copies and the array that moves; None if it does not copy.

    The result of a start has its operands and its result, one of them the part that moves.
    """
    if instruction.opcode not in _COPIES or _HOST not in instruction.type:
        return None
    moved = min(
        (array for array in hlo.arrays(instruction.type) if array[1]),
        key=lambda array: hlo.array_bytes(*array),
    )
    # A copy's result names its destination first; a slice's or an update's, the whole on the host.
    first_layout, _, _ = instruction.type.partition("}")
    writes = _HOST in first_layout and instruction.opcode != "dynamic-slice-start"
    return (TO_HOST if writes else FROM_HOST), moved


def bytes_on_host(program: Program) -> int:
    """Returns the bytes of one device's arrays that lie in its host's memory during a step."""
    total = 0
    for name, times in program.executions.items():
        for instruction in program.computations[name]:
            copied = host_copy(instruction)
            if instruction.opcode == "custom-call" and _HOST in instruction.type:
                total += instruction.bytes if "AllocateBuffer" in instruction.attributes else 0
            elif instruction.opcode == "copy-start" and copied and copied[0] == TO_HOST:
                total += times * hlo.array_bytes(*copied[1])
    return total
