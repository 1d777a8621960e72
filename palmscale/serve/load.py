"""From the folder of a run to what a server offers."""

import time
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
    adapter: Workdir | None = None,
    modules: Iterable[str] = (),
    peers: Peers = ALONE,
    name: str | None = None,
    slots: int = 8,
    context_length: int = 2048,
    quantize: str | None = None,
    speculate_tokens: int = 0,
) -> Served:
    """Returns a trained model behind an engine.

    The programs of usual requests are compiled, so that the first client does not wait for them.

    Args:
        workdir: the run's folder.
        checkpoint: `latest`, `best` or a step.
        adapter: to serve it with; see `palmscale.load`.
        modules: to import, whose Linen modules the checkpoint may name.
        peers: the processes that load it together.
        name: under which clients ask for it; None: the folder's name.
        slots: sequences decoded together.
        context_length: tokens of a prompt and its continuation.
        quantize: type of the weights, `int8`, `int4` or `fp8`; None: as they are stored.
        speculate_tokens: tokens that a step may foresee; see `palmscale.infer.engine.Engine`.

    Raises:
        UserError: there is no such checkpoint, or its model cannot generate text.
    """
    trained = load(
        workdir, checkpoint, adapter=adapter, modules=modules, peers=peers, quantize=quantize
    )
    engine = trained.engine(
        slots=slots,
        context_length=context_length,
        speculate_tokens=speculate_tokens,
        donate=True,
    )
    warm(engine)
    return Served(
        engine=engine,
        vocabulary=trained.vocabulary,
        name=name or PurePosixPath(str(workdir)).name or "palmscale",
        created=int(time.time()),
        num_tokens=interface.num_tokens(trained.model) or trained.vocabulary.size,
    )


def warm(engine: Engine) -> None:
    """Compiles the programs of usual requests: prompts of every chunk's size, and both samplers."""
    # The last is like one before it, and taken from the cache of a slot; the others are all new.
    for exponent in (*range(_WARM_EXPONENTS), _WARM_EXPONENTS - 2):
        prompt = np.full((1 << exponent) + 1, exponent, np.int32)
        sampling = Sampling(top_p=0.9) if exponent % 2 else Sampling()
        if len(prompt) < engine.context_length:
            request = Request(prompt=prompt, max_tokens=1, sampling=sampling)
            for _ in engine.run([request]):
                pass
