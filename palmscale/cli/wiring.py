"""Puts the parts of a run together that training and evaluation share."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from palmscale import axes
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli.job import joined
from palmscale.cli.rows import open_caches, vocabulary_of
from palmscale.cli.run import Run, load_run
from palmscale.data.feed import held_out_batches
from palmscale.data.rows import RowCache, Split
from palmscale.data.sources import VALIDATION
from palmscale.data.stream import Batch
from palmscale.data.vocab import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.partition.mesh import layout, make_mesh
from palmscale.partition.rules import MeshAxes, layout_rules
from palmscale.partition.shardings import spec
from palmscale.storage.place import Place, on_disk, place
from palmscale.train.compiled import CompiledStep
from palmscale.train.evaluate import combine, make_eval_step
from palmscale.train.evaluate import evaluate as held_out_loss
from palmscale.train.state import StatePlan, plan_state
from palmscale.train.step import make_train_step

CONFIG_FILE, CHECKPOINTS = "config.gin", "checkpoints"

Evaluate = Callable[[Any], dict[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run needs before its first step: devices, rows and the plan of its state.

    `caches` are by component; that of a run without a mixture is named "". A plan has none.
    """

    run: Run
    caches: Mapping[str, RowCache]
    vocabulary: Vocabulary
    mesh: Mesh
    rules: Mapping[str, MeshAxes]
    plan: StatePlan

    @property
    def batch_sharding(self) -> NamedSharding:
        """Of a [batch, length] array."""
        return NamedSharding(self.mesh, spec((axes.BATCH, axes.LENGTH), self.rules))

    @property
    def identity(self) -> dict[str, Any]:
        """Of the run; see `Run.identity`."""
        return self.run.identity({name: cache.digest for name, cache in self.caches.items()})

    @property
    def num_params(self) -> int:
        """Parameters of the model, stored padding included."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.plan.abstract.params))


@contextlib.contextmanager
def setting(run: Run) -> Iterator[Setting]:
    """Enters the run's layout, on the devices of the job, having checked that its parts fit.

    Raises:
        UserError: they do not.
    """
    mesh = make_mesh(run.layout.mesh)
    run.check_batches(mesh.shape[axes.REPLICA] * mesh.shape[axes.DATA])
    caches = open_caches(run.data)
    with _entered(run, mesh, caches, next(iter(caches.values())).vocabulary) as here:
        yield here


@contextlib.contextmanager
def setting_without_rows(
    run: Run, devices: Sequence[jax.Device] | None = None
) -> Iterator[Setting]:
    """Enters the run's layout on `devices`, which need not exist; neither reads nor builds rows.

    Raises:
        UserError: its parts do not fit.
    """
    mesh = make_mesh(run.layout.mesh, devices)
    run.check_batches(mesh.shape[axes.REPLICA] * mesh.shape[axes.DATA])
    with _entered(run, mesh, {}, vocabulary_of(run.data)) as here:
        yield here


@contextlib.contextmanager
def _entered(
    run: Run, mesh: Mesh, caches: Mapping[str, RowCache], vocabulary: Vocabulary
) -> Iterator[Setting]:
    rules = layout_rules(run.layout.rules, run.layout.overrides)
    num_tokens = getattr(run.model, "num_tokens", None)
    if num_tokens is not None and vocabulary.size > num_tokens:
        raise UserError(
            f"the vocabulary {vocabulary.name} has {vocabulary.size} tokens and "
            f"NUM_TOKENS={num_tokens}: the model needs at least as many."
        )
    with layout(mesh, rules):
        plan = plan_state(model=run.model, optimizer=run.optimizer, mesh=mesh, rules=rules)
        yield Setting(
            run=run, caches=caches, vocabulary=vocabulary, mesh=mesh, rules=rules, plan=plan
        )


def compiled_step(here: Setting, **options: Any) -> CompiledStep:
    """Returns the train step of a run, the same to train with and to plan; not yet compiled."""
    run = here.run
    step = make_train_step(
        model=run.model,
        plan=here.plan,
        bos_id=here.vocabulary.bos_id,
        seed=run.seed,
        z_loss=run.z_loss,
        loss_chunk_length=run.loss_chunk_length,
        microbatches=run.microbatches,
        **options,
    )
    return CompiledStep(step, here.plan, run.layout.tpu_options)


def evaluate(args: argparse.Namespace) -> None:
    """`palmscale eval`: prints a checkpoint's held-out metrics over all held-out rows."""
    log.set_up()
    workdir = place(args.workdir)
    if args.gin_file:
        run = load_run(args.gin_file, args.gin_bindings)
    else:
        with on_disk(_existing_config(workdir)) as gin_file:
            run = load_run([str(gin_file)], args.gin_bindings)
    which = None if args.checkpoint == "latest" else args.checkpoint
    with (
        joined(
            args, simulated_devices=run.layout.simulated_devices, deadlines=run.deadlines
        ) as job,
        setting(run) as here,
        CheckpointStore(workdir / CHECKPOINTS, keep=run.keep, peers=job.peers) as store,
    ):
        snapshot = store.restore(which, abstract_params=here.plan.abstract.params)
        if snapshot is None:
            raise UserError(f"there is no checkpoint in {workdir}; train first, or name another.")
        whole = dataclasses.replace(run, held_out_sequences=None)
        values = evaluator(dataclasses.replace(here, run=whole))(snapshot)
        if not values:
            raise UserError("nothing is held out in this data; see HELD_OUT_FRACTION.")
        if job.leads:
            print(f"step {snapshot.step}")
            for name, value in values.items():
                print(f"{name} {value:.6f}")


def _existing_config(workdir: Place) -> Place:
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"there is no run in {workdir} ({CONFIG_FILE} is missing); name its folder."
        )
    return path


def evaluator(here: Setting, beat: Callable[[], None] = lambda: None) -> Evaluate:
    """Returns a function of anything with `params` and a `step` that gives its held-out metrics.

    `beat` is called before each batch.
    """
    splits = {name: cache.split(VALIDATION) for name, cache in here.caches.items()}
    for name, split in splits.items():
        if not split.num_rows:
            of = f" of {name}" if name else ""
            log.warn(f"nothing is held out{of} (the text is a single unit): no held-out loss{of}.")
    eval_step = make_eval_step(
        model=here.run.model,
        bos_id=here.vocabulary.bos_id,
        loss_chunk_length=here.run.loss_chunk_length,
    )

    def evaluate_split(split: Split, params: Any) -> dict[str, float]:
        batches = held_out_batches(
            split,
            sharding=here.batch_sharding,
            batch_sequences=here.run.batch_schedule.stages[0][1],
            max_sequences=here.run.held_out_sequences,
        )
        bytes_per_token = None if split.is_packed else split.bytes_per_token
        return held_out_loss(
            eval_step, params, _each(batches, beat), bytes_per_token=bytes_per_token
        )

    def evaluate_state(state: Any) -> dict[str, float]:
        values = {
            name: evaluate_split(split, state.params)
            for name, split in splits.items()
            if split.num_rows
        }
        return combine(values, here.run.data.weights_at(int(state.step)))

    return evaluate_state


def _each(batches: Iterable[Batch], beat: Callable[[], None]) -> Iterator[Batch]:
    for batch in batches:
        beat()
        yield batch
