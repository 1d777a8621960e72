"""Plans a run: whether its train step fits a topology, and how long a step takes."""

import dataclasses
from collections.abc import Iterator

import jax

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.plan import cache
from palmscale.plan.hardware import libtpu, topology
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.judge import judge
from palmscale.plan.plans import Plan, Plans
from palmscale.plan.run_step import lowered_step
from palmscale.plan.step import Step
from palmscale.plan.verdict import DoesNotFit, Fits
from palmscale.run.identity import describe
from palmscale.run.run import Run
from palmscale.run.versions import compiler_versions, versions
from palmscale.storage.place import Place, place
from palmscale.train.step_file import save_step


def plan(
    run: Run,
    topology: str | None = None,
    *,
    slices: int | None = None,
    batch: int | str = "largest",
    dollars_per_chip_hour: float | None = None,
) -> Plans:
    """Returns the plans of a run's train step, compiled for TPUs that need not exist.

    Nothing is trained, and no rows are read. A step that was planned before is not compiled again.
    JAX may already have started on other devices.

    Args:
        run: to plan.
        topology: TPUs by name, such as `v5p-128` or `v4:4x4x8`; None: `Layout.topology`.
        slices: how many of them; None: `Layout.slices` if the topology is the layout's, else 1.
        batch: which batches of `Training.batch_schedule`: `largest`, `all`, or sequences a step.
        dollars_per_chip_hour: a price, to state what the run costs.

    Raises:
        UserError: no or an unknown topology, parts of the run that do not fit one another, or
            libtpu is not installed.
    """
    where = topology_of(run, topology, slices)
    stages = plan_stages(run, where, batch=batch, dollars_per_chip_hour=dollars_per_chip_hour)
    return plans_of(run, stages)


def plan_stages(
    run: Run,
    where: Topology,
    *,
    batch: int | str = "largest",
    dollars_per_chip_hour: float | None = None,
    save_to: str | None = None,
) -> Iterator[Plan]:
    """Yields the plan of each batch, the smallest first; see `plan`.

    With `save_to` the compiled step is written to that file, for a run to load.
    """
    tokens = run.training.batch_schedule.rows_before(run.training.steps) * run.data.sequence_length
    for sequences in batches(run, batch):
        yield Plan(
            verdict=verdict_of(run, where, sequences, save_to=save_to),
            tokens_to_train=tokens,
            dollars_per_chip_hour=dollars_per_chip_hour,
        )


def plans_of(run: Run, stages: Iterator[Plan] | list[Plan]) -> Plans:
    """Returns the plans of a run's stages with what they are plans of."""
    return Plans(versions=versions(), run=describe(run), plans=tuple(stages))


def verdict_of(
    run: Run, where: Topology, sequences: int, *, save_to: str | None = None
) -> Fits | DoesNotFit:
    """Returns the verdict on a batch of so many sequences, compiled unless it is known.

    Raises:
        UserError: as `plan`.
    """
    log.say(f"Compiling the step of {sequences:,} sequences for {where}.")
    with libtpu.compiler():
        step = lowered_step(run, where, sequences)
        key = cache.key_of(step, where, run.layout.tpu_options)
        known = None if save_to else cache.read(key)
        if known is not None:
            return known
        if save_to:
            step = _saving(step, place(save_to))
        verdict = judge(step, where)
    cache.write(key, verdict)
    return verdict


def topology_of(run: Run, name: str | None, slices: int | None) -> Topology:
    """Returns the topology of a name, else that of the run's layout.

    Raises:
        UserError: neither names one, or there is none of that name.
    """
    if name is not None:
        return topology.parse(name, slices or 1)
    if run.layout.topology is None:
        raise UserError(
            "no topology to plan for: Layout.topology is None; set it, or pass topology, for"
            " example v5e-256."
        )
    return topology.parse(run.layout.topology, slices or run.layout.slices)


def batches(run: Run, which: int | str) -> list[int]:
    """Returns the sizes of the batches to plan, the smallest first; see `plan`.

    Raises:
        UserError: `which` names none.
    """
    sizes = sorted({sequences for _, sequences in run.training.batch_schedule.stages})
    if which == "largest":
        return sizes[-1:]
    if which == "all":
        return sizes
    if isinstance(which, int) and which > 0:
        return [which]
    raise UserError(f"batch={which!r} is not `largest`, `all` or a number of sequences.")


def _saving(step: Step, path: Place) -> Step:
    """Returns the step, which also writes itself to a file where it compiles."""

    def compile() -> jax.stages.Compiled:
        compiled = step.compile()
        save_step(path, compiled, digest=step.digest, versions=compiler_versions())
        log.say(f"The compiled step is in {path}; loading it on TPUs has not been tested.")
        return compiled

    return dataclasses.replace(step, compile=compile)
