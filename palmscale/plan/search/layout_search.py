"""Plans other layouts of a run, each compiled in a process of its own, and ranks them."""

import concurrent.futures
import dataclasses
import functools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from palmscale import axes
from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.observe import log
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.plan.hardware import libtpu
from palmscale.plan.hardware.network import Network
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.plans import Plan
from palmscale.plan.program.compile import offered_bytes
from palmscale.plan.report import numbers
from palmscale.plan.search.choices import Choice, Shape, choices, variations
from palmscale.plan.search.estimate import promising, remedies
from palmscale.plan.verdict import Fits
from palmscale.run.run import Run

_WORKER = "palmscale.plan.search.worker"
_WORKER_SECONDS = 1800


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layout that was compiled.

    Attributes:
        choice: the layout.
        changes: the fields of the run that it changes, by name; see `Choice.changes`.
        result: its plan, or why there is none.
    """

    choice: Choice
    changes: dict[str, object]
    result: Plan | str

    @property
    def fits(self) -> bool:
        """Whether the compiler accepts it."""
        return isinstance(self.result, Plan) and self.result.verdict.fits

    @property
    def rank(self) -> float:
        """Lower is better: seconds of a step, or cycles where the chip's clock is unknown."""
        if not isinstance(self.result, Plan) or not isinstance(self.result.verdict, Fits):
            return float("inf")
        verdict = self.result.verdict
        if (prediction := verdict.prediction) is None:
            return verdict.compute.cycles
        bounds = (prediction.lower_bound, prediction.upper_bound)
        return sum(speed.step_seconds for speed in bounds) / 2


def search(run: Run, where: Topology, sequences: int, *, count: int) -> list[Candidate]:
    """Returns the run's own layout and the most promising others, compiled, the best first.

    Args:
        run: whose layout to change.
        where: the topology.
        sequences: a step.
        count: layouts to compile besides the run's own; the best is then compiled again with
            other options of the compiler.

    Raises:
        UserError: the model lacks fields of PaLM, or other processes cannot import it.
    """
    with libtpu.compiler():
        base, shape = base_choice(run, where), shape_of(run, where, sequences)
    found = list(choices(shape, base.options))
    kept = promising(found, shape, count)
    log.say(
        f"{len(found):,} layouts; compiling the run's own and the {len(kept)} most promising for"
        f" {where}."
    )
    wanted = [base, *(one for one in kept if one != base)]
    compiled = sorted(_compile_all(run, where, sequences, base, wanted), key=_rank)
    if compiled[0].fits:
        log.say("Compiling the best of these with other options of the compiler.")
        more = variations(compiled[0].choice)
        compiled += _compile_all(run, where, sequences, base, more)
    return sorted(compiled, key=_rank)


def suggest(run: Run, where: Topology, sequences: int, *, count: int) -> Iterator[Candidate]:
    """Yields the smallest changes that may make a run fit, compiled, until `count` of them fit.

    Raises:
        UserError: as `search`.
    """
    with libtpu.compiler():
        base, shape = base_choice(run, where), shape_of(run, where, sequences)
    near = remedies(base, shape, 3 * count)
    log.say(f"Compiling up to {len(near)} small changes that may make it fit.")
    fitting = 0
    for one in _compile_all(run, where, sequences, base, near):
        yield one
        fitting += one.fits
        if fitting == count:
            return


def base_choice(run: Run, where: Topology) -> Choice:
    """Returns the choice that a run makes now."""
    replicas, data, model = run.layout.axis_sizes(where.devices).values()
    rules = run.layout.table()
    residual = "embed" if rules[axes.ACT_EMBED] == axes.MODEL else "replicated"
    if rules[axes.ACT_LENGTH] == axes.MODEL:
        residual = "sequence"
    return Choice(
        replicas=max(1, replicas // where.slices),
        data=data,
        model=model,
        gradient_accumulation_steps=run.training.gradient_accumulation_steps,
        loss_chunk_length=run.training.loss_chunk_length,
        remat=interface.remat(run.model),
        residual=residual,
        vocabulary=axes.DATA if rules[axes.VOCAB] == axes.DATA else axes.MODEL,
        options=tuple(run.layout.tpu_options.items()),
    )


def shape_of(run: Run, where: Topology, sequences: int) -> Shape:
    """Returns what the arithmetic needs to know.

    Raises:
        UserError: the model lacks fields of PaLM, which the arithmetic reads.
    """
    sizes = interface.dimensions(run.model)
    a_slice = dataclasses.replace(where, slices=1)
    first = libtpu.devices_of(where)[: a_slice.devices]

    @functools.cache
    def ways(replicas: int, data: int, size: int) -> tuple[float, float, float]:
        mesh = make_mesh(MeshSpec(replicas=replicas, data=data, model=size), first)
        network = Network(a_slice, list(mesh.devices.flat))
        numbers = np.arange(mesh.size).reshape(replicas, data, size)
        lines = (numbers[:, 0, 0], numbers[0, :, 0], numbers[0, 0])
        paths = [network.path(line) for line in lines]
        rates = [path.bytes_per_second or where.chip.hbm_bytes_per_second for path in paths]
        return rates[0], rates[1], rates[2]

    return Shape(
        width=sizes.width,
        heads=sizes.heads,
        head_size=sizes.head_dim,
        mlp=sizes.mlp,
        layers=sizes.layers,
        vocabulary=sizes.stored_tokens,
        sequences=sequences,
        stages=tuple(stage for _, stage in run.training.batch_schedule.stages),
        length=run.data.sequence_length,
        slices=where.slices,
        devices=a_slice.devices,
        chip=where.chip,
        offered_bytes=offered_bytes(first[0]),
        ways=ways,
    )


def _compile_all(
    run: Run, where: Topology, sequences: int, base: Choice, wanted: Sequence[Choice]
) -> Iterator[Candidate]:
    """Yields each choice, compiled, in their order; as many at once as there are cores."""
    if type(run.model).__module__ == "__main__":
        raise UserError(
            f"{type(run.model).__name__} is defined in the program itself, where the processes that"
            " compile cannot import it; move it to a module."
        )
    cores = max(1, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        waiting = [pool.submit(_compile, run, where, sequences, base, choice) for choice in wanted]
        try:
            for done in waiting:
                yield done.result()
        finally:
            for one in waiting:
                one.cancel()


def _compile(run: Run, where: Topology, sequences: int, base: Choice, choice: Choice) -> Candidate:
    changed = choice.apply(run, base, where.slices)
    arguments = pickle.dumps((changed, where, sequences))
    ended = subprocess.run(
        [sys.executable, "-m", _WORKER],
        input=pickle.dumps((sys.path, arguments)),
        capture_output=True,
        timeout=_WORKER_SECONDS,
    )
    if ended.returncode == 0:
        result: Plan | str = numbers.from_json(json.loads(ended.stdout))
    else:
        result = (ended.stderr.decode().strip().splitlines() or ["no message"])[-1]
    return Candidate(choice=choice, changes=choice.changes(run, base, where.slices), result=result)


def _rank(candidate: Candidate) -> float:
    return candidate.rank
