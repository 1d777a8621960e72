"""From the folder of a run to what a server offers."""

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE
from palmscale.infer.engine import Engine
from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.model import interface
from palmscale.run.load import load
from palmscale.run.workdir import Workdir
from palmscale.serve.served import Served

_WARM_EXPONENTS = 9  # prompts of up to 257 tokens


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

    The programs of usual requests are compiled, so that the first client does not wait for them.

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
    engine = trained.engine(slots=slots, context_length=context_length, donate=True)
    _warm(engine)
    return Served(
        engine=engine,
        vocabulary=trained.vocabulary,
        name=name or PurePosixPath(str(workdir)).name or "palmscale",
        num_tokens=interface.num_tokens(trained.model) or trained.vocabulary.size,
    )


def _warm(engine: Engine) -> None:
    """Decodes a few tokens of prompts of every chunk's size, with and without filters."""
    for exponent in range(_WARM_EXPONENTS):
        # No prompt begins like another: nothing is taken from the cache.
        prompt = np.full((1 << exponent) + 1, exponent, np.int32)
        sampling = Sampling(top_p=0.9) if exponent % 2 else Sampling()
        if len(prompt) < engine.context_length:
            request = Request(prompt=prompt, max_tokens=1, sampling=sampling)
            for _ in engine.run([request]):
                pass
