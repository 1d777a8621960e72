"""The time of one step, from the compiler's schedule, what computes, and the network's bandwidth.

The program is walked in the order in which the compiler starts its instructions, which gives two
bounds. The lower bound, `overlapped`: asynchronous collectives overlap with what stands between
their start and their end, and wait for links that others use. The upper bound, `serial`: every
collective runs alone.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping

from palmscale.plan.program.collectives import Collective, Traffic
from palmscale.plan.program.compute import Seconds
from palmscale.plan.program.hlo import Instruction, Program


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a part of a step.

    Attributes:
        compute: the chip computes or moves data in its own memory.
        kernels: of these, kernels whose cycles the compiler does not know.
        exposed: it waits for collectives, by mesh axis, where they overlap as scheduled.
        moving: all collectives together, each alone on its links, by mesh axis.
    """

    compute: float = 0.0
    kernels: float = 0.0
    exposed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    moving: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def overlapped(self) -> float:
        """Seconds if everything asynchronous overlaps as scheduled."""
        return self.compute + sum(self.exposed.values())

    @property
    def serial(self) -> float:
        """Seconds if nothing overlaps."""
        return self.compute + sum(self.moving.values())

    def plus(self, other: "Times", times: int = 1) -> "Times":
        """Returns this, then `times` of the other."""
        return Times(
            self.compute + times * other.compute,
            self.kernels + times * other.kernels,
            _sum(self.exposed, other.exposed, times),
            _sum(self.moving, other.moving, times),
        )


def step_times(
    program: Program,
    traffic: Traffic,
    *,
    compute_seconds: Seconds,
    kernel_seconds: Seconds,
) -> Times:
    """Returns the times of one step.

    Args:
        program: scheduled.
        traffic: its collectives.
        compute_seconds: of one execution of an instruction; see compute.py.
        kernel_seconds: of one execution of a custom call whose cycles are unknown.
    """
    walked: dict[str, Times] = {}

    def times_of(name: str) -> Times:
        if name not in walked:
            walk = _Walk(program, traffic, compute_seconds, kernel_seconds, times_of)
            walked[name] = walk.walk(name)
        return walked[name]

    return times_of(program.entry)


class _Walk:
    """One computation, from its first instruction to its last."""

    def __init__(
        self,
        program: Program,
        traffic: Traffic,
        compute_seconds: Seconds,
        kernel_seconds: Seconds,
        times_of: Callable[[str], Times],
    ) -> None:
        self._program, self._traffic = program, traffic
        self._compute_seconds, self._kernel_seconds = compute_seconds, kernel_seconds
        self._times_of = times_of
        self._now = 0.0
        self._busy_until: dict[str, float] = collections.defaultdict(float)
        self._ends: dict[str, float] = {}
        self._times = Times()

    def walk(self, name: str) -> Times:
        for instruction in self._program.computations[name]:
            self._run(instruction)
        return self._times

    def _run(self, instruction: Instruction) -> None:
        one = self._traffic.found.get(instruction.name)
        if one is not None:
            end = self._send(one)
            if one.is_async:
                self._ends[instruction.name] = end
            else:
                self._wait(one.axis, end)
        elif instruction.name in self._traffic.ends:
            started = self._traffic.ends[instruction.name]
            if started in self._ends:
                self._wait(self._traffic.found[started].axis, self._ends[started])
        elif instruction.opcode == "custom-call":
            seconds = self._kernel_seconds(instruction)
            self._compute(seconds, kernels=seconds)
        self._compute(self._compute_seconds(instruction))
        for inner, times in self._program.inner(instruction):
            part = self._times_of(inner)
            self._times = self._times.plus(part, times)
            self._now += times * part.overlapped

    def _send(self, one: Collective) -> float:
        start = max([self._now, *(self._busy_until[lane] for lane in one.path.lanes)])
        for lane in one.path.lanes:
            self._busy_until[lane] = start + one.seconds
        self._times = self._times.plus(Times(moving={one.axis: one.seconds}))
        return start + one.seconds

    def _wait(self, axis: str, end: float) -> None:
        if end > self._now:
            self._times = self._times.plus(Times(exposed={axis: end - self._now}))
            self._now = end

    def _compute(self, seconds: float, kernels: float = 0.0) -> None:
        if seconds:
            self._times = self._times.plus(Times(compute=seconds, kernels=kernels))
            self._now += seconds


def _sum(a: Mapping[str, float], b: Mapping[str, float], times: int) -> dict[str, float]:
    if not b:
        return dict(a)
    return {key: a.get(key, 0.0) + times * b.get(key, 0.0) for key in (*a, *b)}
