"""What a plan says of one step on one topology: whether it fits, how long it takes, and why.

A verdict is plain data. It depends on the program, the topology and the compiler alone; prices and
token budgets are added afterwards (plans.py).
"""

import dataclasses

from palmscale.plan.program.memory import Held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """What joins the devices along a mesh axis.

    Attributes:
        torus: chips along each dim of the torus, as `16 (ring) x 1`.
        slices: over how many slices the axis goes.
    """

    torus: str
    slices: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedArray:
    """An array that the forward pass saves for the backward pass."""

    array: str
    bytes_of_all_devices: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What is known of a step's memory whether or not it fits.

    Attributes:
        needed_bytes: peak memory of a device; of a step that does not fit, what the compiler says
            that the step's own arrays need.
        offered_bytes: that the compiler lets a program have on a device.
        state_bytes: a device, of what stays between steps, by name.
        saved_arrays: the largest first.
        host_bytes: that a host needs for one checkpoint in flight, the batches read ahead, and
            what its devices save there in a step.
        host_offered_bytes: a host.
    """

    needed_bytes: int
    offered_bytes: int
    state_bytes: dict[str, int]
    saved_arrays: tuple[SavedArray, ...]
    host_bytes: int
    host_offered_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramMemory(Memory):
    """The memory of a compiled step, in bytes a device.

    Attributes:
        peak_bytes_by_kind: of the step's own arrays at peak, the largest kind first.
        peak_arrays: these arrays, the largest first; of 1 MiB or more.
        argument_bytes: state and batch.
        aliased_bytes: of the results, those in the place of donated arguments.
        temporary_bytes: the sum over what has a place of its own.
        program_bytes: the code itself.
    """

    peak_bytes_by_kind: dict[str, int]
    peak_arrays: tuple[Held, ...]
    argument_bytes: int
    aliased_bytes: int
    temporary_bytes: int
    program_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """FLOPs of a step on all devices.

    Attributes:
        model_flops: by the paper's count.
        matmul_flops: of the traced program, rematerialization included; kernels apart.
    """

    model_flops: float
    matmul_flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCompute(Compute):
    """The same of a compiled step.

    Attributes:
        cycles: a device, as the compiler estimates them.
        kernel_flops_per_device: of Pallas kernels, which have no estimate.
    """

    cycles: int
    kernel_flops_per_device: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectiveUse:
    """A collective of the compiled step; see program/collectives.py.

    Attributes:
        bytes: of the whole array, a chip.
        milliseconds: of one execution, alone on its links.
    """

    kind: str
    axis: str
    array: str
    bytes: int
    executions_per_step: int
    executions_per_layer: float
    asynchronous: bool
    phase: str
    source: str
    op_name: str
    milliseconds: float

    @property
    def bytes_per_step(self) -> int:
        """Of all executions."""
        return self.bytes * self.executions_per_step

    @property
    def milliseconds_per_step(self) -> float:
        """Of all executions."""
        return self.milliseconds * self.executions_per_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnexpectedCollective:
    """A collective that a well-laid-out step would not have, and why."""

    why: str
    collective: CollectiveUse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """A time of a step, and the shares of the chips' peak that it makes.

    Attributes:
        step_seconds: of a step.
        mfu: the paper's: model FLOPs, whole attention.
        mfu_causal: model FLOPs, causal attention.
        hfu: the matmuls that are computed, rematerialization included.
        tokens_per_second_per_chip: of training.
    """

    step_seconds: float
    mfu: float
    mfu_causal: float
    hfu: float
    tokens_per_second_per_chip: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """The parts of a predicted step time; communication by mesh axis.

    At the lower bound, collectives overlap as scheduled and only exposed communication adds time;
    at the upper bound all communication is exposed.
    """

    compute_lower_bound: float
    compute_upper_bound: float
    kernels: float
    exposed_communication_lower_bound: dict[str, float]
    exposed_communication_upper_bound: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Predicted, not measured: bounds of the step time.

    Attributes:
        lower_bound: matmuls at the chip's peak, and all that is asynchronous overlaps as scheduled.
        upper_bound: the compiler's cycles, and nothing overlaps.
        seconds: what both are made of.
    """

    lower_bound: Speed
    upper_bound: Speed
    seconds: StepSeconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of a step on a topology whether or not it fits: `Fits` or `DoesNotFit`.

    Attributes:
        topology: its name.
        chips, hosts, devices: of all slices.
        mesh: size of each mesh axis.
        placement: of each mesh axis with more than one device.
        step_digest: of the lowered program.
        batch_sequences: a step.
        sequence_length: tokens a row.
        parameters: as the paper counts them.
        memory: of a device and of a host.
        compute: of a step.
        replicated_bytes: of large parameters and moments that every device holds whole, by name.
    """

    topology: str
    chips: int
    hosts: int
    devices: int
    mesh: dict[str, int]
    placement: dict[str, Placement]
    step_digest: str
    batch_sequences: int
    sequence_length: int
    parameters: int
    memory: Memory
    compute: Compute
    replicated_bytes: dict[str, int]

    @property
    def fits(self) -> bool:
        """Whether the compiler accepts the program."""
        return isinstance(self, Fits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoesNotFit(Verdict):
    """The compiler refuses the program: it needs more memory than a device offers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fits(Verdict):
    """The compiler accepts the program.

    Attributes:
        collectives: the most bytes a step first.
        unexpected_collectives: of these, those that a well-laid-out step would not have.
        prediction: of the step time; None where the chip's clock is unknown.
        compile_cpu_seconds: that the compiler took.
    """

    memory: ProgramMemory
    compute: ProgramCompute
    collectives: tuple[CollectiveUse, ...]
    unexpected_collectives: tuple[UnexpectedCollective, ...]
    prediction: Prediction | None
    compile_cpu_seconds: float
