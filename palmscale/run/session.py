"""What is built from a run before its first step: layout, rows, vocabulary and state plan."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from palmscale.data import open as data
from palmscale.data.dataset import Data
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.source import TRAIN
from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.model import interface, sizes
from palmscale.model.lora import Lora
from palmscale.model.sizes import ParameterCounts
from palmscale.model.tracing import check_takes_segments, trace, trace_adapted
from palmscale.observe import log
from palmscale.partition import layout
from palmscale.partition.layout import DeviceLayout
from palmscale.run import place
from palmscale.run.identity import describe, identity
from palmscale.run.run import Run
from palmscale.run.versions import versions
from palmscale.train.compile import CompiledStep
from palmscale.train.state import StatePlan, plan_state
from palmscale.train.step import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A run's layout on its devices, its rows and the plan of its state.

    Attributes:
        layout: entered.
        caches: by component; that of a run without a mixture is named ""; empty in a plan.
        vocabulary: of the rows.
        state_plan: shapes and shardings of parameters and optimizer state.
        counts: of the parameters, adapters included.
        trained: number of the parameters that train.
        flops_per_token: model FLOPs of training on a token: of the matmuls with weights, and of
            attention.
    """

    layout: DeviceLayout
    caches: Mapping[str, RowCache]
    vocabulary: Vocabulary
    state_plan: StatePlan
    counts: ParameterCounts
    trained: int
    flops_per_token: tuple[int, int]


@contextlib.contextmanager
def open_session(
    run: Run, waits_for: Callable[[str], None] = lambda what: None
) -> Iterator[Session]:
    """Enters the run's layout on the devices of the job, and opens or builds its rows.

    `waits_for` receives what it waits for, whenever there is progress.

    Raises:
        UserError: the parts of the run do not fit one another or the devices.
    """
    waits_for("the devices")
    run.training.check_batches(layout.data_parallel(run.layout, jax.device_count()))
    with layout.enter(run.layout) as entered:
        state_plan = _state_plan(run, entered)  # building rows may take hours
        caches = open_caches(run.data, waits_for=waits_for)
        if any(cache.split(TRAIN).is_packed for cache in caches.values()):
            check_takes_segments(run.model)  # a built cache may be packed
        vocabulary = next(iter(caches.values())).vocabulary
        yield _session(run, entered, state_plan, caches, vocabulary)


@contextlib.contextmanager
def plan_session(run: Run, devices: Sequence[jax.Device] | None = None) -> Iterator[Session]:
    """Enters the run's layout on `devices`, which need not exist; neither reads nor builds rows.

    Raises:
        UserError: the parts of the run do not fit one another or the devices.
    """
    with layout.enter(run.layout, devices) as entered:
        run.training.check_batches(entered.data_parallel)
        state_plan = _state_plan(run, entered)
        yield _session(run, entered, state_plan, {}, data.vocabulary_of(run.data))


def _state_plan(run: Run, entered: DeviceLayout) -> StatePlan:
    """Returns the plan of the run's state, after tracing its module."""
    try:
        traced = trace(
            run.model,
            sequence_length=run.data.sequence_length,
            sequences=entered.data_parallel,
            is_packed=data.is_packed(run.data),
        )
    except UserError as error:
        if flaw := _flaw_of_plan(run, entered):
            raise flaw from error
        raise
    for collection in traced.sown:
        log.warn(
            f"{type(run.model).__name__} sows {collection!r}, which is not part of the loss: a run"
            " trains on cross entropy and z-loss alone."
        )
    planned = _planned(run, entered)
    if isinstance(run.trainable, Lora):
        trace_adapted(
            run.model,
            planned.boxed.params,
            sequence_length=run.data.sequence_length,
            sequences=entered.data_parallel,
        )
    return planned


def _planned(run: Run, entered: DeviceLayout) -> StatePlan:
    return plan_state(
        model=run.model,
        optimizer=run.optimizer,
        mesh=entered.mesh,
        rules=entered.rules,
        trainable=run.trainable,
    )


def _flaw_of_plan(run: Run, entered: DeviceLayout) -> UserError | None:
    """Returns what planning the state says of a module that cannot be traced.

    A dim that does not divide over the mesh fails in both; the plan names the parameter.
    """
    try:
        _planned(run, entered)
    except UserError as error:
        return error
    except Exception:  # whatever a broken module raises: the trace has said it better
        return None
    return None


def open_caches(description: Data, **options: Any) -> dict[str, RowCache]:
    """Returns the row caches of a description, by default those in the user's cache folder.

    The options are those of `palmscale.data.open.open_caches`.
    """
    return data.open_caches(description, user_caches=place.cache_directory(), **options)


def open_cache(folder: str | os.PathLike[str]) -> RowCache:
    """Returns a built cache, by way of the user's cache folder where it lies in a bucket."""
    return data.open_cache(folder, user_caches=place.cache_directory())


def _session(
    run: Run,
    entered: DeviceLayout,
    state_plan: StatePlan,
    caches: Mapping[str, RowCache],
    vocabulary: Vocabulary,
) -> Session:
    num_tokens = interface.num_tokens(run.model)
    if num_tokens is not None and vocabulary.size > num_tokens:
        raise UserError(
            f"the vocabulary {vocabulary.name} has {vocabulary.size} tokens and"
            f" {type(run.model).__name__}.num_tokens={num_tokens}; the model needs at least as"
            " many."
        )
    counts = sizes.count_parameters(state_plan.boxed.params, run.model)
    trained = sizes.count_parameters(state_plan.trainable.part(state_plan.boxed.params), run.model)
    flops = sizes.training_flops_per_token(
        run.model, counts.model, run.data.sequence_length, trained=trained.model
    )
    return Session(
        layout=entered,
        caches=caches,
        vocabulary=vocabulary,
        state_plan=state_plan,
        counts=counts,
        trained=trained.stored,
        flops_per_token=flops,
    )


def compiled_step(run: Run, session: Session, **options: Any) -> CompiledStep:
    """Returns the train step of a run, the same to train with and to plan; not yet compiled."""
    step = make_train_step(
        model=run.model,
        plan=session.state_plan,
        bos_id=session.vocabulary.bos_id,
        seed=run.training.seed,
        z_loss=run.training.z_loss,
        loss_chunk_length=run.training.loss_chunk_length,
        gradient_accumulation_steps=run.training.gradient_accumulation_steps,
        **options,
    )
    return CompiledStep(step, session.state_plan, run.layout.tpu_options)


def session_identity(run: Run, session: Session) -> dict[str, Any]:
    """Returns what must stay the same for the run to go on; see `palmscale.run.identity`."""
    return identity(run, {name: cache.digest for name, cache in session.caches.items()})


def meta(run: Run, session: Session, config: str) -> dict[str, Any]:
    """Returns what every checkpoint says of its run, as JSON.

    `config` is the text of the gin configuration; empty for a run that was built in Python.
    """
    return {
        "identity": session_identity(run, session),
        "run": describe(run),
        "vocabulary": session.vocabulary.description(),
        "sequence_length": run.data.sequence_length,
        "num_params": session.counts.stored,
        "operative_config": config,
        "mesh": {name: int(size) for name, size in session.layout.mesh.shape.items()},
        "rules": dict(session.layout.rules),
        "versions": versions(),
    }
