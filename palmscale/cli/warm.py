"""A warm start: the parameters of another run, at the beginning of this one."""

from typing import Any

from palmscale.checkpoint.fingerprint import named_leaves
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.warm_start import warm_parameters
from palmscale.cli.run import describe
from palmscale.cli.wiring import CHECKPOINTS, Setting
from palmscale.cluster.agree import Peers
from palmscale.observe import log
from palmscale.storage.place import place


def given_parameters(here: Setting, peers: Peers) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Returns the parameters to begin with, by path, and what the run's meta says of them.

    Nothing and None where the run asks for no warm start.

    Raises:
        UserError: the other run's parameters do not fit; each is named.
    """
    warm = here.run.warm_start
    if warm is None:
        return {}, None
    reader = CheckpointReader(
        place(warm.workdir) / CHECKPOINTS,
        peers=peers,
        timeout_seconds=here.run.deadlines.agree_seconds,
    )
    params = named_leaves(here.plan.abstract.params)
    step, given = warm_parameters(warm, reader, params)
    fresh = len(params) - len(given)
    log.say(
        f"Warm start: {len(given)} arrays of parameters from step {step:,} of {warm.workdir}"
        f"{f'; {fresh} begin anew' if fresh else ''}."
    )
    return given, {**describe(warm), "step": step}
