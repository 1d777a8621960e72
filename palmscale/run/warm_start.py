"""The first parameters of a run that begins with another run's."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from palmscale import axes
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.warm_start import WarmStart, not_fresh, warm_parameters
from palmscale.cluster.job import Job
from palmscale.errors import UserError
from palmscale.exit_codes import printable
from palmscale.model.lora import base_of, base_paths
from palmscale.observe import log
from palmscale.partition.shardings import logical_axes
from palmscale.run.identity import describe
from palmscale.run.run import Run
from palmscale.run.session import Session
from palmscale.run.stored_meta import (
    check_trainable,
    check_whole,
    read_meta,
)
from palmscale.run.workdir import checkpoints
from palmscale.storage.place import Place, place
from palmscale.train.trainer import InitialParams
from palmscale.trees import named_leaves


def initial_params(run: Run, session: Session, job: Job) -> InitialParams:
    """Returns the function from nothing to the first parameters, by name, and what meta records."""

    def nothing() -> tuple[Mapping[str, Any], None]:
        return {}, None

    def given() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        reader = _reader(warm, run, job)
        abstract = session.state_plan.abstract.params
        params = named_leaves(base_of(abstract))
        step, found = warm_parameters(warm, reader, params)
        fresh = len(params) - len(found)
        log.say(
            f"Warm start: {len(found)} arrays of parameters from step {step:,} of {warm.workdir}"
            f"{f'; {fresh} initialized' if fresh else ''}."
        )
        own = base_paths(abstract)
        digest = reader.params_digest(step)
        return (
            {own[name]: array for name, array in found.items()},
            {**describe(warm), "step": step, "digest": digest},
        )

    warm = run.warm_start
    return nothing if warm is None else given


def check_is_another(run: Run, workdir: Place) -> None:
    """Raises UserError where a run would begin with the parameters of its own folder."""
    warm = run.warm_start
    if warm is not None and _resolved(place(warm.workdir)) == _resolved(workdir):
        raise UserError(
            f"WarmStart.workdir={warm.workdir!r} is the run's own folder; choose another workdir"
            " for this run: its base stays as it is."
        )


def check_base(run: Run, session: Session, job: Job) -> None:
    """Checks that the run can begin with the other run's parameters, before anything is compiled.

    All processes must call this, before the run has a checkpoint.

    Raises:
        UserError: the other run has no checkpoint, or quantized weights, or the rows have another
            vocabulary than the token table that is taken over.
    """
    warm = run.warm_start
    if warm is None:
        return
    reader = _reader(warm, run, job)
    stored = read_meta(reader)
    check_trainable(stored, reader)
    check_whole(stored, reader)
    there = stored["vocabulary"]
    here = session.vocabulary.description()
    tables = not_fresh(warm, _token_tables(session))
    if tables and there["digest"] != here["digest"]:
        raise UserError(
            f"WarmStart.workdir={warm.workdir!r} was trained with the vocabulary {_told(there)},"
            f" but the rows have {_told(here)}, which gives the same ids another meaning; use its"
            f" vocabulary, or set WarmStart.fresh={tuple(tables)!r} to train a new token table."
        )


def _resolved(folder: Place) -> str:
    return os.path.realpath(folder) if isinstance(folder, Path) else str(folder)


def _reader(warm: WarmStart, run: Run, job: Job) -> CheckpointReader:
    try:
        return checkpoints(
            warm.workdir, peers=job.peers, timeout_seconds=run.deadlines.agree_seconds
        )
    except UserError as error:
        raise type(error)(
            f"WarmStart.workdir={warm.workdir!r} has no checkpoint: {error}"
        ) from error


def _token_tables(session: Session) -> list[str]:
    """Returns the names of the parameters with a dim of the vocabulary."""
    plan = session.state_plan
    names = named_leaves(base_of(plan.abstract.params))
    axes_of = logical_axes(base_of(plan.boxed.params))
    named = jax.tree.leaves(axes_of, is_leaf=lambda x: type(x) is tuple)
    return [name for name, dims in zip(names, named, strict=True) if axes.VOCAB in dims]


def _told(vocabulary: Mapping[str, Any]) -> str:
    kind, size = printable(str(vocabulary.get("kind"))), vocabulary.get("size")
    return f"{kind} ({size} tokens, digest {printable(str(vocabulary['digest']))[:8]})"
