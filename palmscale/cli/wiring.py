"""Puts the services of a run together: from gin files to a trained, evaluated, checked model."""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

import palmscale
from palmscale import axes
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cli import devices, gin_config, samples
from palmscale.cli.rows import open_caches, train_rows
from palmscale.cli.run import Run, check_same_run, load_run
from palmscale.data.feed import Feed, held_out_batches
from palmscale.data.rows import RowCache, Split
from palmscale.data.sources import VALIDATION
from palmscale.data.stream import Cursor, RowStream
from palmscale.data.vocab import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log, writers
from palmscale.observe.progress import Progress
from palmscale.observe.throughput import Throughput, peak_flops_per_device
from palmscale.partition.mesh import layout, make_mesh
from palmscale.partition.rules import MeshAxes, layout_rules
from palmscale.partition.shardings import spec
from palmscale.train import loop
from palmscale.train.evaluate import combine, make_eval_step
from palmscale.train.evaluate import evaluate as held_out_loss
from palmscale.train.state import StatePlan, TrainState, init_state, plan_state
from palmscale.train.step import make_train_step

CONFIG_FILE, METRICS_FILE, VOCABULARY = "config.gin", "metrics.jsonl", "vocabulary"
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run needs before its first step: devices, rows and the plan of its state.

    `caches` are by component; that of a run without a mixture is named "".
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
    """Enters the run's layout, having checked that its parts fit together.

    Raises:
        UserError: they do not.
    """
    devices.start(run.layout.simulated_devices)
    mesh = make_mesh(run.layout.mesh)
    run.check_batches(mesh.shape[axes.REPLICA] * mesh.shape[axes.DATA])
    rules = layout_rules(run.layout.rules, run.layout.overrides)
    caches = open_caches(run.data)
    vocabulary = next(iter(caches.values())).vocabulary
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


def train(args: argparse.Namespace) -> None:
    """`palmscale train`: trains from where the workdir stands to TRAIN_STEPS."""
    log.set_up()
    run = load_run(args.gin_file, args.gin_bindings)
    workdir = Path(args.workdir)
    command = (
        f"palmscale generate --workdir={workdir} --prompt='{run.reporting.sample_prompt or ''}'"
    )
    with Lease(workdir) as lease, setting(run) as here:
        store = CheckpointStore(workdir / CHECKPOINTS, keep=run.keep, lease=lease)
        with store:
            state, cursor = _resume_or_begin(here, store)
            if cursor.step >= run.train_steps:
                log.say(f"There is nothing to do: {workdir} stands at step {cursor.step:,}, and "
                        f"TRAIN_STEPS={run.train_steps}. Ask for more, or: {command}")  # fmt: skip
                return
            (workdir / CONFIG_FILE).write_text(gin_config.operative_config())
            here.vocabulary.save(_made(workdir / VOCABULARY))
            state = _train(here, store, workdir, state, cursor)
    samples.say_sample(run, here.vocabulary, state.params)
    log.say(f"Trained {run.train_steps:,} steps; checkpoints are in {workdir}. Next: {command}")


def _resume_or_begin(here: Setting, store: CheckpointStore) -> tuple[TrainState, Cursor]:
    """Resumes from the newest good checkpoint of this run, else begins at step 0."""
    run, abstract = here.run, here.plan.abstract
    meta = store.read_meta()
    if meta is not None:
        identity = here.identity
        for name, (old, new) in check_same_run(
            meta["identity"], identity, run.allow_changes
        ).items():
            log.warn(
                f"resuming with {name} changed from {old!r} to {new!r}, as ALLOW_CHANGES says."
            )
    optimizer = {"step": abstract.step, "state": abstract.optimizer_state}
    snapshot = store.restore(abstract_params=abstract.params, abstract_optimizer_state=optimizer)
    count = f"{here.num_params:,} parameters on {_mesh_text(here.mesh)}"
    if snapshot is None:
        log.say(f"Beginning at step 0: {count}. The first step compiles.")
        return init_state(here.plan, run.model, seed=run.seed), _stream(here).cursor(0)
    log.say(f"Resuming after step {snapshot.step:,}: {count}.")
    state = TrainState(
        snapshot.optimizer_state["step"], snapshot.params, snapshot.optimizer_state["state"]
    )
    return state, Cursor.from_json(snapshot.cursor)


def _train(
    here: Setting, store: CheckpointStore, workdir: Path, state: TrainState, cursor: Cursor
) -> TrainState:
    run = here.run
    step = make_train_step(
        model=run.model,
        plan=here.plan,
        bos_id=here.vocabulary.bos_id,
        seed=run.seed,
        z_loss=run.z_loss,
        loss_chunk_length=run.loss_chunk_length,
        microbatches=run.microbatches,
    )
    meta = _meta(here)
    metrics = _writers(run, workdir)
    metrics.truncate_from(cursor.step + 1)
    stream = _stream(here)
    progress = Progress(total_steps=run.train_steps, start_step=cursor.step)

    def report(done: int, values: Mapping[str, float]) -> None:
        metrics.write(done, values)
        progress.update(done, values)

    def save(done: int, state: TrainState, next_cursor: Cursor, held_out: Mapping[str, float]):
        store.save(
            done,
            params=state.params,
            optimizer_state={"step": state.step, "state": state.optimizer_state},
            cursor=next_cursor.to_json(),
            meta=meta,
            metrics=held_out,
        )

    with contextlib.closing(metrics), Feed(stream, here.batch_sharding, cursor) as feed, progress:
        return loop.train(
            state,
            train_step=jax.jit(step, donate_argnums=0, out_shardings=(here.plan.shardings, None)),
            feed=feed,
            stream=stream,
            cursor=cursor,
            train_steps=run.train_steps,
            periods=run.periods,
            throughput=_throughput(here),
            report=report,
            evaluate=_evaluator(here),
            save=save,
        )


def evaluate(args: argparse.Namespace) -> None:
    """`palmscale eval`: prints a checkpoint's held-out metrics over all held-out rows."""
    log.set_up()
    workdir = Path(args.workdir)
    gin_files = args.gin_file or [_existing_config(workdir)]
    run = load_run(gin_files, args.gin_bindings)
    which = None if args.checkpoint == "latest" else args.checkpoint
    with setting(run) as here, CheckpointStore(workdir / CHECKPOINTS, keep=run.keep) as store:
        snapshot = store.restore(which, abstract_params=here.plan.abstract.params)
        if snapshot is None:
            raise UserError(f"there is no checkpoint in {workdir}; train first, or name another.")
        whole = dataclasses.replace(run, held_out_sequences=None)
        values = _evaluator(dataclasses.replace(here, run=whole))(snapshot)
        if not values:
            raise UserError("nothing is held out in this data; see HELD_OUT_FRACTION.")
        print(f"step {snapshot.step}")
        for name, value in values.items():
            print(f"{name} {value:.6f}")


def _existing_config(workdir: Path) -> str:
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise UserError(
            f"there is no run in {workdir} ({CONFIG_FILE} is missing); name its folder."
        )
    return str(path)


def _evaluator(here: Setting) -> Any:
    """Returns a function of anything with `params` and a `step` that gives its held-out metrics."""
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
        return held_out_loss(eval_step, params, batches, bytes_per_token=bytes_per_token)

    def evaluate_state(state: Any) -> dict[str, float]:
        values = {
            name: evaluate_split(split, state.params)
            for name, split in splits.items()
            if split.num_rows
        }
        return combine(values, here.run.data.weights_at(int(state.step)))

    return evaluate_state


def _stream(here: Setting) -> RowStream:
    return RowStream(rows=train_rows(here.run, here.caches), schedule=here.run.batch_schedule)


def _throughput(here: Setting) -> Throughput:
    """Counts tokens, and MFU by the paper's formula: 6 FLOPs a parameter, and attention's."""
    model: nn.Module = here.run.model
    attention = getattr(model, "attention_flops_per_token", lambda sequence_length: 0)
    flops = 6 * here.num_params + attention(here.run.data.sequence_length)
    peak = here.run.reporting.peak_flops_per_device
    if peak is None:
        peak = peak_flops_per_device(jax.devices()[0].device_kind)
    return Throughput(
        flops_per_token=flops, peak_flops=None if peak is None else peak * here.mesh.size
    )


def _writers(run: Run, workdir: Path) -> writers.Writers:
    chosen: list[writers.MetricWriter] = [writers.JsonLines(workdir / METRICS_FILE)]
    if run.reporting.tensorboard:
        chosen.append(writers.TensorBoard(workdir / "tensorboard"))
    if run.reporting.wandb_project is not None:
        chosen.append(
            writers.WeightsAndBiases(
                workdir,
                project=run.reporting.wandb_project,
                name=workdir.name,
                mode=run.reporting.wandb_mode,
            )
        )
    return writers.Writers(chosen)


def _meta(here: Setting) -> dict[str, Any]:
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "identity": here.identity,
        "vocabulary": here.vocabulary.description(),
        "sequence_length": here.run.data.sequence_length,
        "num_params": here.num_params,
        "operative_config": gin_config.operative_config(),
        "mesh": {name: int(size) for name, size in here.mesh.shape.items()},
        "versions": {
            "python": platform.python_version(),
            "palmscale": palmscale.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def _mesh_text(mesh: Mesh) -> str:
    kind = jax.devices()[0].device_kind
    sizes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1)
    return f"{mesh.size} {kind} device(s), {sizes or 'one of each'}"


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
