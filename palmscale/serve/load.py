"""From the folder of a run to what a server offers."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE
from palmscale.model import interface
from palmscale.run.load import load
from palmscale.run.workdir import Workdir
from palmscale.serve.served import Served


def load_served(
    workdir: Workdir,
    checkpoint: int | str = "latest",
    *,
    modules: Iterable[str] = (),
    peers: Peers = ALONE,
    name: str | None = None,
    slots: int = 8,
    context_length: int = 2048,
) -> Served:
    """Returns a trained model behind an engine.

    Args:
        workdir: the run's folder.
        checkpoint: `latest`, `best` or a step.
        modules: to import, whose Linen modules the checkpoint may name.
        peers: the processes that load it together.
        name: under which clients ask for it; None: the folder's name.
        slots: sequences decoded together.
        context_length: tokens of a prompt and its continuation.

    Raises:
        UserError: there is no such checkpoint, or its model cannot generate text.
    """
    trained = load(workdir, checkpoint, modules=modules, peers=peers)
    interface.check_generates(trained.model)
    return Served(
        engine=trained.engine(slots=slots, context_length=context_length, donate=True),
        vocabulary=trained.vocabulary,
        name=name or PurePosixPath(str(workdir)).name or "palmscale",
        num_tokens=interface.num_tokens(trained.model) or trained.vocabulary.size,
    )
