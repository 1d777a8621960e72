"""Text from a run's folder."""

from collections.abc import Iterable
from typing import Any

from palmscale.run.load import load
from palmscale.run.workdir import Workdir


def generate(
    workdir: Workdir,
    prompt: str = "",
    *,
    checkpoint: int | str = "latest",
    adapter: Workdir | None = None,
    modules: Iterable[str] = (),
    **fields: Any,
) -> str:
    """Returns the text that a trained model writes after `prompt`.

    To generate more than once, `load` the model once.

    Args:
        workdir: the run's folder.
        prompt: the text to continue.
        checkpoint: `latest`, `best` or a step.
        adapter: to generate with; see `palmscale.load`.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.
        **fields: of `palmscale.infer.continuation.TextRequest`, such as `max_tokens`,
            `temperature`, `stop` and `seed`.

    Raises:
        UserError: there is no such checkpoint, or the model cannot generate.
    """
    trained = load(workdir, checkpoint, adapter=adapter, modules=modules)
    return trained.generate(prompt, **fields)
